// A subscription whose upstream is silent shows that it lives. No client may
// take that for a result, or for the end.
import assert from 'node:assert/strict';
import { ApolloClient, HttpLink, InMemoryCache, gql } from '@apollo/client';
import { Client, fetchExchange } from '@urql/core';
import { createClient } from 'graphql-sse';
import { ask, endpoint, prompt, test } from './support.mjs';

const query = 'subscription S($input: ChatInput!) { aiResponse(input: $input) { content done } }';
const wanted = [{ content: 'Hel', done: false }, { content: 'lo', done: false }, { content: null, done: true }];
const variables = () => ask(prompt('pause'));

const ways = {
  async 'graphql-sse'() {
    const deltas = [];
    for await (const { data } of createClient({ url: endpoint, retryAttempts: 0 }).iterate({ query, variables: variables() })) {
      deltas.push(data.aiResponse);
    }
    assert.deepEqual(deltas, wanted);
  },
  async urql() {
    const deltas = [];
    const client = new Client({ url: endpoint, exchanges: [fetchExchange], fetchSubscriptions: true });
    await new Promise((resolve) => {
      client.subscription(query, variables()).subscribe(({ data, hasNext }) => {
        if (!hasNext) return resolve();
        const { content, done } = data.aiResponse;
        deltas.push({ content, done });
      });
    });
    assert.deepEqual(deltas, wanted);
  },
  async Apollo() {
    const deltas = [];
    const client = new ApolloClient({ link: new HttpLink({ uri: endpoint }), cache: new InMemoryCache() });
    await new Promise((resolve, reject) => {
      client.subscribe({ query: gql(query), variables: variables() }).subscribe({
        next({ data, error }) {
          if (error) return reject(error);
          const { content, done } = data.aiResponse;
          deltas.push({ content, done });
        },
        error: reject,
        complete: resolve,
      });
    });
    assert.deepEqual(deltas, wanted);
  },
  async 'plain fetch, server-sent events'() {
    const text = await (await post('text/event-stream')).text();
    const results = wanted.map((aiResponse) => `event: next\ndata: ${JSON.stringify({ data: { aiResponse } })}\n\n`);
    const ping = ':\n\n';
    assert.equal(text, [ping, results[0], ping, results[1], results[2], 'event: complete\ndata: \n\n'].join(''));
  },
  async 'plain fetch, multipart'() {
    const text = await (await post('multipart/mixed;subscriptionSpec=1.0')).text();
    const part = (value) => `\r\ncontent-type: application/json\r\n\r\n${JSON.stringify(value)}\r\n--graphql`;
    const results = wanted.map((aiResponse) => part({ payload: { data: { aiResponse } } }));
    assert.equal(text, ['\r\n--graphql', results[0], part({}), results[1], results[2], '--\r\n'].join(''));
  },
};

test('silence of 15 seconds', async (t) => {
  // All at once, to be silent only once.
  await Promise.all(Object.entries(ways).map(([name, run]) => t.test(name, run)));
});

function post(accept) {
  return fetch(endpoint, {
    method: 'POST',
    headers: { 'content-type': 'application/json', accept },
    body: JSON.stringify({ query, variables: variables() }),
  });
}
