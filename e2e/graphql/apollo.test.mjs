import assert from 'node:assert/strict';
import { ApolloClient, CombinedGraphQLErrors, HttpLink, InMemoryCache, gql } from '@apollo/client';
import {
  ask, assertEcho, assertNoSecrets, assertRateLimited, calls, documents, endpoint, prompt, recorder, test, upstreamCall,
} from './support.mjs';

const wire = recorder();
const newClient = (more) => new ApolloClient({
  link: new HttpLink({ uri: endpoint, fetch: wire.fetch, ...more }), cache: new InMemoryCache(),
});
const client = newClient();
const parsed = Object.fromEntries(Object.entries(documents).map(([name, text]) => [name, gql(text)]));

test('mutation and query', async () => {
  const created = await client.mutate({ mutation: parsed.createSession });
  const { sessionId } = created.data.createSession;
  const content = prompt();
  const sent = await client.mutate({ mutation: parsed.sendMessage, variables: { input: { sessionId, content } } });
  assert.equal(sent.data.sendMessage.__typename, 'ChatMessage');
  const answered = await client.mutate({ mutation: parsed.getAIResponse, variables: { input: { sessionId } } });
  assert.equal(answered.error, undefined);
  assert.equal(answered.data.getAIResponse.content, `You said: ${content}`);
  const history = await client.query({ query: parsed.chatHistory, variables: { sessionId } });
  assert.deepEqual(history.data.chatHistory.map(({ content }) => content), [content, `You said: ${content}`]);
  assert.equal(wire.last().accept, 'application/graphql-response+json,application/json;q=0.9');
  assert.match(wire.last().contentType, /^application\/graphql-response\+json/);
  // Objects of one id are one in the cache: ids are unique.
  const cached = Object.keys(client.cache.extract()).filter((key) => key.startsWith('ChatMessage:'));
  assert.equal(cached.length, 2);
});

test('query over GET', async () => {
  const get = newClient({ useGETForQueries: true });
  const { data } = await get.query({ query: parsed.chatHistory, variables: { sessionId: 'nobody' } });
  assert.deepEqual(data, { chatHistory: [] });
  assert.equal(wire.last().method, 'GET');
});

test('generateImage', async () => {
  const { data } = await client.mutate({ mutation: parsed.generateImage, variables: { input: { prompt: prompt('a cat') } } });
  assert.match(data.generateImage.images[0].url, /^data:image\/png;base64,/);
});

test('errors', async (t) => {
  const mutation = gql`mutation M($input: ChatInput!) { createSession { success } getAIResponse(input: $input) { content } }`;
  await t.test('thrown', async () => {
    const error = await client.mutate({ mutation, variables: ask(prompt('limit the rate')) })
      .then(() => assert.fail('no error'), (error) => error);
    assert.ok(CombinedGraphQLErrors.is(error));
    assertRateLimited(error.errors[0]);
  });
  await t.test('errorPolicy all', async () => {
    const { data, error } = await client.mutate({ mutation, variables: ask(prompt('limit the rate')), errorPolicy: 'all' });
    assert.equal(data.createSession.success, true);
    assert.equal(data.getAIResponse, null);
    assert.ok(CombinedGraphQLErrors.is(error));
    assertRateLimited(error.errors[0]);
  });
  await t.test('validation', async () => {
    const { data, error } = await client.query({ query: gql`{ chatHistory { nothing } }`, errorPolicy: 'all' });
    assert.equal(data, undefined);
    assert.equal(wire.last().status, 400);
    assert.ok(CombinedGraphQLErrors.is(error));
    assert.equal(error.errors[0].extensions.code, 'GRAPHQL_VALIDATION_FAILED');
  });
});

test('subscription over multipart', async (t) => {
  await t.test('every delta', async () => {
    const content = prompt();
    const results = await subscribed(ask(content));
    assert.deepEqual(results.map(({ error }) => error), results.map(() => undefined));
    assertEcho(results.map(({ data }) => data.aiResponse), content);
    assert.match(wire.last().accept, /^multipart\/mixed;boundary=graphql;subscriptionSpec=1\.0/);
    assert.equal(wire.last().contentType, 'multipart/mixed;boundary="graphql";subscriptionSpec=1.0');
  });
  await t.test('the upstream refuses', async () => {
    const results = await subscribed(ask(prompt('limit the rate')));
    assert.equal(results.length, 1);
    assertRateLimited(results[0].error.errors[0], 'aiResponse');
  });
  await t.test('the upstream dies in the middle', async () => {
    const results = await subscribed(ask(prompt('die in the middle')));
    assert.deepEqual(results.slice(0, -1).map(({ data }) => data.aiResponse.content), ['Hel', 'lo']);
    const { error } = results.at(-1);
    assert.equal(error.errors[0].extensions.code, 'UPSTREAM_ERROR');
    assertNoSecrets(error.errors);
  });
  await t.test('a delta is there before the next, and the caller leaves', async () => {
    const content = prompt('fall silent');
    await new Promise((resolve, reject) => {
      const subscription = client.subscribe({ query: parsed.aiResponse, variables: ask(content) }).subscribe({
        next({ data, error }) {
          queueMicrotask(() => subscription.unsubscribe());
          return error ? reject(error) : resolve(assert.equal(data.aiResponse.content, 'Hel'));
        },
        error: reject,
      });
    });
    await upstreamCall(content, 'left');
    assert.equal((await calls(content)).length, 1);
  });
  await t.test('validation', async () => {
    const results = await subscribed({}, gql`subscription { aiResponse(input: {}) { nothing } }`);
    assert.equal(results.length, 1);
    assert.equal(results[0].error.errors[0].extensions.code, 'GRAPHQL_VALIDATION_FAILED');
  });
});

/** All results of a subscription, until the server completes it. */
function subscribed(variables, query = parsed.aiResponse) {
  return new Promise((resolve, reject) => {
    const results = [];
    client.subscribe({ query, variables, errorPolicy: 'all' }).subscribe({
      next: (result) => results.push(result), error: reject, complete: () => resolve(results),
    });
  });
}
