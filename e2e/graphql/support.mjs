// What every test needs: where the server is, and what its upstream saw.
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { test as nodeTest } from 'node:test';

function address(name) {
  const value = process.env[name];
  assert.ok(value, `${name} is not set: start the tests with run.sh`);
  return value;
}

export const root = address('PROXY_URL');
export const endpoint = `${root}/graphql`;
const upstream = address('UPSTREAM_URL');

/** A test that ends by itself. Subtests that are not waited for run side by side. */
export const test = (name, run) => nodeTest(name, { timeout: 25_000, concurrency: true }, run);

/** A prompt that no other test sends. What stands before the colon is a script of server/upstream.go. */
export const prompt = (script = 'say') => `${script}: ${randomUUID()}`;

/** A session id as the original front end invents it. */
export const inventedSession = () => `session_${Date.now()}_${Math.random().toString(36).slice(2, 11)}`;

/** The upstream calls about one prompt. */
export async function calls(about) {
  const response = await fetch(`${upstream}/calls`);
  return (await response.json()).filter((call) => call.prompt === about);
}

/** Waits until the upstream has exactly one call about a prompt, in that state. */
export async function upstreamCall(about, state) {
  let seen;
  for (const end = Date.now() + 5_000; Date.now() < end; await sleep(20)) {
    seen = await calls(about);
    if (seen.length > 1) break;
    if (seen[0]?.state === state) return seen[0];
  }
  assert.fail(`wanted one call in state ${state}, got ${JSON.stringify(seen)}`);
}

/** A fetch that keeps what went over the wire. */
export function recorder() {
  const seen = [];
  const fetchFn = async (input, init) => {
    const request = new Request(input, init);
    const { method, url } = request;
    const entry = { method, url, accept: request.headers.get('accept') };
    seen.push(entry);
    const response = await fetch(input, init);
    entry.status = response.status;
    entry.contentType = response.headers.get('content-type');
    return response;
  };
  return { seen, fetch: fetchFn, last: () => seen.at(-1) };
}

/** The time as JavaScript writes it. */
export function assertTimestamp(text) {
  const time = new Date(text);
  assert.ok(Math.abs(Date.now() - time.getTime()) < 60_000, `timestamp ${text}`);
  assert.equal(time.toISOString(), text);
}

/** What an upstream that limits the rate looks like to GraphQL clients. */
export function assertRateLimited(error, field = 'getAIResponse') {
  assert.match(error.message, /^OpenAI API returned 429: Rate limit reached/);
  assert.deepEqual(error.path, [field]);
  assert.deepEqual(error.extensions, {
    code: 'UPSTREAM_RATE_LIMITED',
    upstream: { status: 429, type: 'requests', code: 'rate_limit_exceeded' },
  });
  assertNoSecrets(error);
}

/** Neither keys nor names of organizations, and nothing of Go. */
export function assertNoSecrets(value) {
  assert.doesNotMatch(JSON.stringify(value), /sk-e2e|org-Proxytest|127\.0\.0\.1|goroutine|\.go:|dial tcp|EOF/);
}

/** The texts of a stream's deltas, joined. */
export const joined = (deltas) => deltas.map((delta) => delta.content ?? '').join('');

export const documents = {
  getAIResponse: `mutation GetAIResponse($input: ChatInput!) { getAIResponse(input: $input) { id content isUser timestamp success error } }`,
  generateImage: `mutation GenerateImage($input: ImageInput!) { generateImage(input: $input) { id prompt images { url b64_json } model size quality style timestamp success error } }`,
  createSession: `mutation CreateSession { createSession { sessionId success } }`,
  chatHistory: `query ChatHistory($sessionId: String) { chatHistory(sessionId: $sessionId) { id content isUser timestamp } }`,
  sendMessage: `mutation SendMessage($input: MessageInput!) { sendMessage(input: $input) { id content isUser timestamp success error } }`,
  aiResponse: `subscription AIResponse($input: ChatInput!) {
    aiResponse(input: $input) { id content done finishReason usage { totalTokens } message { id content isUser timestamp } }
  }`,
};

/** The variables of one question. */
export const ask = (content, more) => ({ input: { messages: [{ role: 'user', content }], ...more } });

/** Checks a whole subscription to an echo. */
export function assertEcho(deltas, text) {
  assert.ok(deltas.length > 3, `${deltas.length} events`);
  const last = deltas.at(-1);
  assert.deepEqual(deltas.map((delta) => delta.done), deltas.map((delta) => delta === last));
  assert.equal(joined(deltas.slice(0, -1)), `You said: ${text}`);
  assert.equal(last.message.content, `You said: ${text}`);
  assert.equal(last.message.isUser, false);
  assert.equal(last.usage.totalTokens, 21);
  assertTimestamp(last.message.timestamp);
  assert.ok(deltas.some((delta) => delta.finishReason === 'stop'));
}
