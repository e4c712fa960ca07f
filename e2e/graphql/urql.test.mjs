import assert from 'node:assert/strict';
import { Client, fetchExchange, gql } from '@urql/core';
import {
  ask, assertEcho, assertNoSecrets, assertRateLimited, calls, documents, endpoint, inventedSession, prompt, recorder, test,
  upstreamCall,
} from './support.mjs';

const wire = recorder();
const newClient = (more) => new Client({
  url: endpoint, fetch: wire.fetch, exchanges: [fetchExchange], fetchSubscriptions: true, preferGetMethod: true, ...more,
});
const client = newClient();

// urql takes streams for an answer to any operation.
const accept = 'application/graphql-response+json, application/graphql+json, application/json, text/event-stream, multipart/mixed';

test('mutation', async () => {
  const content = prompt();
  const { data, error } = await client.mutation(documents.getAIResponse, ask(content)).toPromise();
  assert.equal(error, undefined);
  assert.equal(data.getAIResponse.content, `You said: ${content}`);
  assert.deepEqual(pick(wire.last()), ['POST', accept, 200, 'application/graphql-response+json']);
});

test('query over GET', async () => {
  const sessionId = inventedSession();
  await client.mutation(documents.sendMessage, { input: { sessionId, content: 'hello' } }).toPromise();
  const { data, error } = await client.query(documents.chatHistory, { sessionId }).toPromise();
  assert.equal(error, undefined);
  assert.deepEqual(data.chatHistory.map(({ content }) => content), ['hello']);
  assert.deepEqual(pick(wire.last()), ['GET', accept, 200, 'application/graphql-response+json']);
  assert.match(wire.last().url, /[?&]operationName=ChatHistory&/);
});

test('query over POST, with a fragment and an alias', async () => {
  const turn = gql`fragment Turn on ChatMessage { __typename id text: content }`;
  const query = gql`query Turns($sessionId: String) { turns: chatHistory(sessionId: $sessionId, last: 1) { ...Turn } } ${turn}`;
  const sessionId = inventedSession();
  for (const content of ['one', 'two']) {
    await client.mutation(documents.sendMessage, { input: { sessionId, content } }).toPromise();
  }
  const { data, error } = await client.query(query, { sessionId }, { preferGetMethod: false }).toPromise();
  assert.equal(error, undefined);
  assert.deepEqual(data.turns.map(({ __typename, text }) => [__typename, text]), [['ChatMessage', 'two']]);
  assert.equal(wire.last().method, 'POST');
});

test('errors', async (t) => {
  await t.test('429 of the upstream', async () => {
    const { data, error } = await client.mutation(documents.getAIResponse, ask(prompt('limit the rate'))).toPromise();
    assert.deepEqual(data, { getAIResponse: null });
    assert.equal(error.networkError, undefined);
    const [{ message, path, extensions }] = error.graphQLErrors;
    assertRateLimited({ message, path, extensions });
  });
  await t.test('validation', async () => {
    const { data, error } = await client.query('{ chatHistory { nothing } }', {}).toPromise();
    assert.equal(data, undefined);
    assert.equal(error.response.status, 400);
    assert.equal(error.graphQLErrors[0].extensions.code, 'GRAPHQL_VALIDATION_FAILED');
  });
});

test('subscription', async (t) => {
  await t.test('over server-sent events', async () => {
    const content = prompt();
    const results = await subscribed(client, ask(content));
    assert.deepEqual(results.map(({ error }) => error), results.map(() => undefined));
    assertEcho(results.map(({ data }) => data.aiResponse), content);
    assert.deepEqual(pick(wire.last()), ['POST', 'text/event-stream, multipart/mixed', 200, 'text/event-stream']);
    assert.equal((await upstreamCall(content, 'done')).body.stream, true);
  });
  await t.test('the upstream refuses', async () => {
    const results = await subscribed(client, ask(prompt('limit the rate')));
    assert.equal(results.length, 1);
    assert.deepEqual(results[0].data, { aiResponse: null });
    const [{ message, path, extensions }] = results[0].error.graphQLErrors;
    assertRateLimited({ message, path, extensions }, 'aiResponse');
  });
  await t.test('the upstream dies in the middle', async () => {
    const results = await subscribed(client, ask(prompt('die in the middle')));
    assert.deepEqual(results.slice(0, -1).map(({ data }) => data.aiResponse.content), ['Hel', 'lo']);
    const { error } = results.at(-1);
    assert.equal(error.graphQLErrors[0].extensions.code, 'UPSTREAM_ERROR');
    assertNoSecrets(error.graphQLErrors);
  });
  await t.test('the caller leaves', async () => {
    const content = prompt('fall silent');
    await new Promise((resolve, reject) => {
      const { unsubscribe } = client.subscription(documents.aiResponse, ask(content)).subscribe(({ data, error }) => {
        queueMicrotask(() => unsubscribe());
        return error ? reject(error) : resolve(data);
      });
    });
    await upstreamCall(content, 'left');
    assert.equal((await calls(content)).length, 1);
  });
});

/** All results of a subscription, until the server completes it. */
function subscribed(client, variables) {
  return new Promise((resolve) => {
    const results = [];
    client.subscription(documents.aiResponse, variables).subscribe((result) => {
      // The end of a stream is the last result again, without hasNext.
      if (result.hasNext) results.push(result);
      else resolve(results);
    });
  });
}

const pick = ({ method, accept, status, contentType }) => [method, accept, status, contentType.split(';')[0]];
