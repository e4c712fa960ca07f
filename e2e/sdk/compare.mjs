// Runs every case straight and through the proxy and compares what they saw.
import assert from 'node:assert/strict';
import { cases } from './cases.mjs';

const upstream = process.env.UPSTREAM_URL;
const ways = {
  straight: { name: 'straight', root: `${upstream}/v1`, key: 'sk-of-the-page', upstream },
  proxy: { name: 'proxy', root: `${process.env.PROXY_URL}/v1`, key: 'sk-of-the-page', upstream },
};

/** Where the proxy means to differ: its own key is refused, which is no fault of the page's. */
const refusedKey = {
  class: 'InternalServerError', status: 502, code: 'upstream_auth', type: 'upstream_error', param: null,
  message: "502 The upstream does not accept this server's credentials.",
};
const meant = {
  'openai: 401': () => refusedKey,
  'openai: 401 for a stream': () => refusedKey,
  'openai: 403': () => refusedKey,
  'openai: 403 for a stream': () => refusedKey,
  // Straight, a program learns of a broken connection; through the proxy also why.
  'openai: stream that is cut': ({ seen }) => ({
    seen,
    failed: { class: 'APIError', code: 'upstream_disconnected', type: 'upstream_error', param: null, message: 'The upstream broke off the stream.' },
  }),
};
/** What has to be so in both ways. */
const wanted = {
  'openai: abort of a stream': { chunks: 3, left: true },
  'openai: retry after 429': { text: 'Now it works.', requests: 2, waited: true },
};

const counts = { straight: 0, proxy: 0 };
const different = [];
for (const [name, run] of Object.entries(cases)) {
  const seen = {};
  for (const [way, env] of Object.entries(ways)) {
    try {
      seen[way] = JSON.parse(JSON.stringify(await run(env)));
      counts[way]++;
    } catch (error) {
      seen[way] = `failed: ${error.stack}`;
    }
  }
  try {
    assert.deepEqual(seen.proxy, meant[name]?.(seen.straight) ?? seen.straight);
    assert.deepEqual(seen.straight, wanted[name] ?? seen.straight);
  } catch {
    different.push(name);
    console.log(`${name}:\n  straight: ${JSON.stringify(seen.straight)?.slice(0, 1500)}\n  proxy:    ${JSON.stringify(seen.proxy)?.slice(0, 1500)}`);
  }
}
const total = Object.keys(cases).length;
console.log(`npm: ${total} cases; straight ${counts.straight}, through the proxy ${counts.proxy}; ` +
  `${total - different.length} as they should be, ${Object.keys(meant).length} of them different on purpose`);
process.exit(different.length === 0 && counts.straight === total && counts.proxy === total ? 0 : 1);
