import assert from 'node:assert/strict';
import { createClient } from 'graphql-sse';
import {
  ask, assertEcho, assertNoSecrets, assertRateLimited, calls, documents, endpoint, inventedSession, joined, prompt,
  recorder, test, upstreamCall,
} from './support.mjs';

const wire = recorder();
const newClient = (more) => createClient({ url: endpoint, fetchFn: wire.fetch, retryAttempts: 0, ...more });
const client = newClient(); // in distinct connections mode

test('subscription', async () => {
  const content = prompt();
  const results = await all({ query: documents.aiResponse, variables: ask(content) });
  assertEcho(results.map(({ data }) => data.aiResponse), content);
  assert.deepEqual(wire.last(), {
    method: 'POST', url: endpoint, accept: 'text/event-stream', status: 200, contentType: 'text/event-stream; charset=utf-8',
  });
});

test('a subscription writes the session', async () => {
  const sessionId = inventedSession();
  const content = prompt();
  const deltas = (await all({ query: documents.aiResponse, variables: ask(content, { sessionId }) }))
    .map(({ data }) => data.aiResponse);
  const [{ data }] = await all({ query: documents.chatHistory, variables: { sessionId } });
  assert.deepEqual(data.chatHistory.map((turn) => [turn.content, turn.isUser]), [
    [content, true], [joined(deltas.slice(0, -1)), false],
  ]);
  assert.equal(data.chatHistory[1].id, deltas.at(-1).message.id);
});

test('query and mutation, and operationName', async () => {
  const query = Object.values(documents).join('\n');
  const [created, ...none] = await all({ query, operationName: 'CreateSession' });
  assert.deepEqual(none, []);
  const { sessionId } = created.data.createSession;
  const content = prompt();
  const answered = await all({ query, operationName: 'GetAIResponse', variables: ask(content, { sessionId }) });
  assert.equal(answered[0].data.getAIResponse.content, `You said: ${content}`);
  const history = await all({ query, operationName: 'ChatHistory', variables: { sessionId } });
  assert.equal(history[0].data.chatHistory.length, 2);
});

test('the upstream refuses', async () => {
  for (const [query, field] of [[documents.aiResponse, 'aiResponse'], [documents.getAIResponse, 'getAIResponse']]) {
    const results = await all({ query, variables: ask(prompt('limit the rate')) });
    assert.equal(results.length, 1);
    assert.deepEqual(results[0].data, { [field]: null });
    assertRateLimited(pick(results[0].errors[0]), field);
  }
  const [{ errors: [error] }] = await all({ query: documents.aiResponse, variables: ask(prompt('refuse the key')) });
  assert.match(error.extensions.code, /^UPSTREAM_/);
  assertNoSecrets(error);
});

for (const script of ['die in the middle', 'fail in the middle']) {
  test(`the upstream: ${script}`, async () => {
    const sessionId = inventedSession();
    const results = await all({ query: documents.aiResponse, variables: ask(prompt(script), { sessionId }) });
    const last = results.pop();
    assert.equal(joined(results.map(({ data }) => data.aiResponse)), script.startsWith('die') ? 'Hello' : 'Hel');
    assert.deepEqual(last.data, { aiResponse: null });
    assert.equal(last.errors.length, 1);
    assert.deepEqual(last.errors[0].path, ['aiResponse']);
    assert.equal(last.errors[0].extensions.code, 'UPSTREAM_ERROR');
    assertNoSecrets(last);
    // What failed is not remembered.
    const [{ data }] = await all({ query: documents.chatHistory, variables: { sessionId } });
    assert.deepEqual(data.chatHistory, []);
  });
}

test('request errors', async (t) => {
  const content = prompt();
  const refused = {
    GRAPHQL_VALIDATION_FAILED: { query: 'subscription { nothing }' },
    GRAPHQL_PARSE_FAILED: { query: 'subscription {' },
    BAD_USER_INPUT: { query: documents.aiResponse, variables: ask(content, { n: 'two' }) },
    OPERATION_RESOLUTION_FAILURE: { query: documents.aiResponse, operationName: 'Nothing', variables: ask(content) },
  };
  for (const [code, request] of Object.entries(refused)) {
    await t.test(code, async () => {
      const results = await all(request);
      assert.equal(results.length, 1);
      assert.equal('data' in results[0], false);
      assert.equal(results[0].errors[0].extensions.code, code);
    });
  }
  await t.test('no messages', async () => {
    const [{ data, errors: [error] }] = await all({ query: documents.aiResponse, variables: { input: {} } });
    assert.deepEqual(data, { aiResponse: null });
    assert.equal(error.message, 'messages field is required and must be an array');
  });
  assert.deepEqual(await calls(content), []);
});

test('a caller that leaves', async (t) => {
  await t.test('between two deltas', async () => {
    const content = prompt('fall silent');
    const results = client.iterate({ query: documents.aiResponse, variables: ask(content) });
    const { value } = await results.next();
    assert.equal(value.data.aiResponse.content, 'Hel');
    await upstreamCall(content, 'running');
    await results.return();
    await upstreamCall(content, 'left');
  });
  await t.test('before the upstream answers', async () => {
    const content = prompt('never answer');
    const dispose = client.subscribe({ query: documents.aiResponse, variables: ask(content) }, {
      next: () => {}, error: () => {}, complete: () => {},
    });
    await upstreamCall(content, 'running');
    dispose();
    await upstreamCall(content, 'left');
  });
});

test('twenty at once', async () => {
  const asked = Array.from({ length: 20 }, () => prompt());
  await Promise.all(asked.map(async (content) => {
    assertEcho((await all({ query: documents.aiResponse, variables: ask(content) })).map(({ data }) => data.aiResponse), content);
  }));
});

test('single connection mode is refused at once', async () => {
  const single = newClient({ singleConnection: true });
  const results = single.iterate({ query: documents.chatHistory });
  await assert.rejects(results.next(), (error) => error.response.status === 405);
  assert.equal(wire.last().method, 'PUT');
});

/** All results of an operation, until the server completes it. */
async function all(request) {
  const results = [];
  for await (const result of client.iterate(request)) results.push(result);
  return results;
}

const pick = ({ message, path, extensions }) => ({ message, path, extensions });
