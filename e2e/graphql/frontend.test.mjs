// The flow of the front end that the original worker had: plain fetch, an
// invented session where none could be made, the whole history in each request.
import assert from 'node:assert/strict';
import {
  assertNoSecrets, assertRateLimited, assertTimestamp, calls, documents, endpoint, inventedSession, prompt, test,
  upstreamCall,
} from './support.mjs';

const origin = 'http://localhost:3000';

/** Posts as the page does. */
function post(query, variables, headers) {
  return fetch(endpoint, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json', origin, ...headers },
    body: JSON.stringify({ query, variables }),
  });
}

/** Reads an answer as the page does, in its order. */
async function graphQL(query, variables, headers) {
  const response = await post(query, variables, headers);
  assert.equal(response.headers.get('access-control-allow-origin'), origin);
  assert.match(response.headers.get('vary'), /\bAccept\b/);
  assert.equal(response.headers.get('content-type'), 'application/json; charset=utf-8');
  if (!response.ok) {
    throw new Error(`HTTP error! status: ${response.status}, body: ${await response.text()}`);
  }
  const result = await response.json();
  if (result.errors) throw new Error(result.errors[0].message);
  return result.data;
}

/** What the page shows of a failure. */
async function failure(query, variables, headers) {
  const error = await graphQL(query, variables, headers).then(() => assert.fail('no error'), (error) => error);
  const [, status, body] = /^HTTP error! status: (\d+), body: (.*)/s.exec(error.message) ?? assert.fail(error.message);
  assertNoSecrets(body);
  const { errors } = JSON.parse(body);
  assert.equal(typeof errors[0].message, 'string');
  return { status: Number(status), error: errors[0], body: JSON.parse(body) };
}

test('a conversation in an invented session', async () => {
  const sessionId = inventedSession();
  assert.deepEqual((await graphQL(documents.chatHistory, { sessionId })).chatHistory, []);

  const shown = [];
  const turn = ({ content, isUser }) => ({ content, isUser });
  for (let round = 0; round < 3; round++) {
    const content = prompt();
    const { sendMessage } = await graphQL(documents.sendMessage, { input: { sessionId, content, role: 'user' } });
    assert.equal(sendMessage.success, true);
    shown.push(sendMessage);

    const messages = shown.map(({ content, isUser }) => ({ role: isUser ? 'user' : 'assistant', content }));
    const { getAIResponse } = await graphQL(documents.getAIResponse, { input: { messages, model: 'gpt-4o' } });
    assert.equal(getAIResponse?.success, true, getAIResponse?.error);
    assert.equal(getAIResponse.content, `You said: ${content}`);
    shown.push(getAIResponse);

    // The whole history went on, and nothing else; the reply is stored by the page.
    const { body } = await upstreamCall(content, 'done');
    assert.deepEqual(body.messages, messages);
    await graphQL(documents.sendMessage, { input: { sessionId, content: getAIResponse.content, role: 'assistant' } });
  }
  const { chatHistory } = await graphQL(documents.chatHistory, { sessionId });
  assert.deepEqual(chatHistory.map(turn), shown.map(turn));
  for (const { timestamp } of [...chatHistory, ...shown]) assertTimestamp(timestamp);
  assert.equal(new Set(chatHistory.map(({ id }) => id)).size, 6);
});

test('the whole history with a session is stored once', async () => {
  const { createSession: { sessionId } } = await graphQL(documents.createSession);
  const messages = [];
  for (let round = 0; round < 3; round++) {
    messages.push({ role: 'user', content: prompt() });
    await graphQL(documents.sendMessage, { input: { sessionId, ...messages.at(-1) } });
    const { getAIResponse } = await graphQL(documents.getAIResponse, { input: { sessionId, messages } });
    messages.push({ role: 'assistant', content: getAIResponse.content });
  }
  const { chatHistory } = await graphQL(documents.chatHistory, { sessionId });
  assert.deepEqual(
    chatHistory.map(({ content, isUser }) => ({ role: isUser ? 'user' : 'assistant', content })), messages);
});

test('an image', async () => {
  const { generateImage } = await graphQL(documents.generateImage, {
    input: { prompt: prompt('a cat'), model: 'dall-e-3', n: 1, size: '1024x1024', quality: 'standard', style: 'vivid' },
  });
  assert.equal(generateImage.success, true);
  const [{ url, b64_json }] = generateImage.images;
  assert.match(url || `data:image/png;base64,${b64_json}`, /^https:/);
  // The quality is the one that the upstream says it used.
  assert.deepEqual([generateImage.size, generateImage.quality, generateImage.style], ['1024x1024', 'low', 'vivid']);
  assertTimestamp(generateImage.timestamp);

  // Models that send base64 only are shown all the same.
  const base64 = await graphQL(documents.generateImage, { input: { prompt: prompt('a cat'), model: 'gpt-image-1' } });
  assert.match(base64.generateImage.images[0].url, /^data:image\/png;base64,/);
});

test('the key of the page goes first', async () => {
  const content = prompt();
  const input = { messages: [{ role: 'user', content }] };
  await graphQL(documents.getAIResponse, { input }, { 'x-openai-key': 'sk-e2e-page-0123456789abcdef' });
  assert.equal((await calls(content))[0].authorization, 'Bearer sk-e2e-page-0123456789abcdef');
});

test('failures have a status and a message', async (t) => {
  const say = (script) => ({ input: { messages: [{ role: 'user', content: prompt(script) }] } });
  await t.test('429', async () => {
    const { status, error, body } = await failure(documents.getAIResponse, say('limit the rate'));
    assert.equal(status, 429);
    assertRateLimited(error);
    assert.deepEqual(body.data, { getAIResponse: null });
    const response = await post(documents.getAIResponse, say('limit the rate'));
    assert.equal(response.headers.get('retry-after'), '2');
    await response.body.cancel();
  });
  await t.test('500', async () => {
    const { status, error } = await failure(documents.getAIResponse, say('break down'));
    assert.equal(status, 500);
    assert.equal(error.message, 'OpenAI API returned 500: The server had an error.');
    assert.equal(error.extensions.code, 'UPSTREAM_ERROR');
  });
  await t.test('the key of the server is refused', async () => {
    const { status, error } = await failure(documents.getAIResponse, say('refuse the key'));
    assert.equal(status, 502);
    assert.equal(error.extensions.code, 'UPSTREAM_AUTH');
  });
  await t.test('the key of the page is refused', async () => {
    const { status, error } = await failure(documents.getAIResponse, say('refuse the key'), { 'x-openai-key': 'sk-mine-0123456789' });
    assert.equal(status, 401);
    assert.match(error.message, /^OpenAI API returned 401: /);
    assert.equal(error.extensions.code, 'UPSTREAM_UNAUTHORIZED');
  });
  await t.test('an image', async () => {
    const { status, error } = await failure(documents.generateImage, { input: { prompt: prompt('limit the rate') } });
    assert.equal(status, 429);
    assert.match(error.message, /^OpenAI Image API returned 429: /);
  });
  await t.test('no messages, no prompt', async () => {
    const chat = await failure(documents.getAIResponse, { input: {} });
    assert.deepEqual([chat.status, chat.error.message], [400, 'messages field is required and must be an array']);
    const image = await failure(documents.generateImage, { input: {} });
    assert.deepEqual([image.status, image.error.message], [400, 'prompt field is required for image generation']);
  });
  await t.test('a document that is not valid', async () => {
    const { status, error, body } = await failure('{ chatHistory { nothing } }');
    assert.equal(status, 400);
    assert.equal(error.extensions.code, 'GRAPHQL_VALIDATION_FAILED');
    assert.equal('data' in body, false);
  });
});

test('a page of another origin is refused', async () => {
  const content = prompt();
  const response = await post(documents.getAIResponse,
    { input: { messages: [{ role: 'user', content }] } }, { origin: 'https://evil.example.com' });
  assert.equal(response.status, 403);
  assert.equal(response.headers.get('access-control-allow-origin'), null);
  assert.deepEqual(await calls(content), []);
  await response.body.cancel();
});

test('preflight', async () => {
  const response = await fetch(endpoint, {
    method: 'OPTIONS',
    headers: {
      origin, 'access-control-request-method': 'POST', 'access-control-request-headers': 'content-type,x-openai-key',
    },
  });
  assert.equal(response.status, 204);
  assert.equal(response.headers.get('access-control-allow-origin'), origin);
  assert.match(response.headers.get('access-control-allow-headers'), /content-type.*x-openai-key/i);
});

test('what a page could send without asking is refused', async () => {
  const query = 'mutation { createSession { sessionId } }';
  for (const [type, body] of [
    ['text/plain', JSON.stringify({ query })],
    ['application/x-www-form-urlencoded', String(new URLSearchParams({ query }))],
  ]) {
    const response = await fetch(endpoint, { method: 'POST', headers: { 'content-type': type }, body });
    assert.equal(response.status, 415, type);
  }
  const get = await fetch(`${endpoint}?${new URLSearchParams({ query })}`);
  assert.equal(get.status, 405);
  assert.match(get.headers.get('allow'), /POST/);
  const stream = await fetch(`${endpoint}?${new URLSearchParams({ query: 'subscription { aiResponse(input: {}) { id } }' })}`,
    { headers: { accept: 'text/event-stream' } });
  assert.equal(stream.status, 405);
});
