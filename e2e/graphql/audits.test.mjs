// The official audits of GraphQL over HTTP: https://github.com/graphql/graphql-http
import assert from 'node:assert/strict';
import { test, endpoint } from './support.mjs';
import { auditServer } from 'graphql-http';

test('audits of graphql-http', async (t) => {
  const results = await auditServer({ url: endpoint });
  const counts = {};
  for (const { name, status } of results) {
    const [level] = name.split(' ');
    counts[level] ??= { ok: 0, of: 0 };
    counts[level].of++;
    counts[level].ok += status === 'ok' ? 1 : 0;
  }
  const text = Object.entries(counts).map(([level, { ok, of }]) => `${level} ${ok}/${of}`).join(', ');
  t.diagnostic(`audits: ${results.filter(({ status }) => status === 'ok').length}/${results.length} ok (${text})`);
  for (const { id, name, status, reason } of results) {
    await t.test(`${id} ${name}`, () => assert.equal(status, 'ok', reason));
  }
  await t.test('all audits were run', () => {
    const of = Object.fromEntries(Object.entries(counts).map(([level, count]) => [level, count.of]));
    assert.deepEqual(of, { MUST: 13, SHOULD: 23, MAY: 25 });
  });
});
