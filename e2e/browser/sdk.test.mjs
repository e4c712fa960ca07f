// The official SDK, unmodified, in a page of another origin.
import assert from 'node:assert/strict';
import { allowed, calls, hasText, members, open, prompt, release, root, stranger, test, upstreamCall } from './support.mjs';

const failed = /^Failed to load resource|blocked by CORS policy/;

/** Opens a page of an origin with a client of the SDK in it. */
async function client(t, origin, { baseURL = `${root}/v1`, fetchOptions = {}, ...options } = {}) {
  const page = await open(t, origin, options);
  await page.waitForFunction(() => window.sdk);
  await page.evaluate(([url, options]) => {
    window.client = new sdk.OpenAI({
      baseURL: url, apiKey: 'unused', dangerouslyAllowBrowser: true, maxRetries: 0, fetchOptions: options,
    });
    window.ask = (content, more) => ({ model: 'gpt-e2e', messages: [{ role: 'user', content }], ...more });
    window.caught = ({ constructor, status, code, headers, message }) => ({
      isConnection: constructor === sdk.APIConnectionError, isRateLimit: constructor === sdk.RateLimitError,
      isAuthentication: constructor === sdk.AuthenticationError, isAPIError: constructor === sdk.APIError,
      isAbort: constructor === sdk.APIUserAbortError,
      status, code, message, headers: headers && Object.fromEntries(headers),
    });
  }, [baseURL, fetchOptions]);
  return page;
}

const chat = (page, text) => page.evaluate(async (content) => {
  try {
    const { data, response, request_id: id } = await client.chat.completions.create(ask(content)).withResponse();
    return { text: data.choices[0].message.content, id, limit: response.headers.get('x-ratelimit-limit-requests') };
  } catch (error) {
    return caught(error);
  }
}, text);

test('chat, with its request id', async (t) => {
  const page = await client(t, allowed), text = prompt();
  const answer = await chat(page, text);
  assert.equal(answer.text, `You said: ${text}`);
  assert.match(answer.id, /^req_/);
  assert.ok(Number(answer.limit) > 0, `x-ratelimit-limit-requests ${answer.limit}`);
  const { authorization, body } = await upstreamCall(text, 'done');
  assert.match(authorization, /^Bearer sk-e2e-server/);
  assert.deepEqual(body, { model: 'gpt-e2e', messages: [{ role: 'user', content: text }] });
});

test('a stream arrives while the upstream is still sending', async (t) => {
  const page = await client(t, allowed), text = prompt('wait in the middle');
  await page.evaluate((content) => {
    window.ended = (async () => {
      for await (const chunk of await client.chat.completions.create(ask(content, { stream: true }))) {
        document.body.append(chunk.choices[0].delta.content);
      }
    })();
  }, text);
  await hasText(page.locator('body'), /^\s*The first half$/);
  await upstreamCall(text, 'running');
  await release(text);
  await page.evaluate(() => ended);
  await hasText(page.locator('body'), /^\s*The first half, and the second\.$/);
});

test('aborting a stream, and a plain request, reaches the upstream', async (t) => {
  const page = await client(t, allowed);
  for (const script of ['fall silent', 'never answer']) {
    const text = prompt(script);
    await page.evaluate((content) => {
      window.controller = new AbortController();
      window.began = Promise.withResolvers();
      window.ended = (async () => {
        const { signal } = controller, stream = content.startsWith('fall silent');
        const answer = await client.chat.completions.create(ask(content, { stream }), { signal });
        for await (const chunk of answer) began.resolve(chunk.choices[0].delta.content);
        return 'ended'; // the SDK takes the abort of a stream for its end
      })().catch(caught);
    }, text);
    await upstreamCall(text, 'running');
    if (script === 'fall silent') assert.equal(await page.evaluate(() => began.promise), 'The first half');
    const result = await page.evaluate(() => { controller.abort(); return ended; });
    await upstreamCall(text, 'left');
    if (script === 'fall silent') assert.equal(result, 'ended');
    else assert.ok(result.isAbort, JSON.stringify(result));
  }
});

test('an image', async (t) => {
  const page = await client(t, allowed), text = prompt('a lighthouse');
  const width = await page.evaluate(async (words) => {
    const { data } = await client.images.generate({ model: 'gpt-image-e2e', prompt: words });
    const image = new Image();
    image.src = `data:image/png;base64,${data[0].b64_json}`;
    await image.decode();
    return image.naturalWidth;
  }, text);
  assert.ok(width > 0, `${width} px`);
  await upstreamCall(text, 'done');
});

test('a rate limit is a RateLimitError whose headers can be read', async (t) => {
  const page = await client(t, allowed, { expected: failed });
  const error = await chat(page, prompt('limit the rate'));
  assert.ok(error.isRateLimit, JSON.stringify(error));
  assert.equal(error.status, 429);
  assert.equal(error.code, 'rate_limit_exceeded');
  assert.match(error.headers['x-request-id'], /^req_/);
  assert.equal(error.headers['retry-after'], '7');
  assert.equal(error.headers['retry-after-ms'], '7000');
  assert.doesNotMatch(JSON.stringify(error), /sk-e2e|org-Proxytest/);
});

test('a broken stream is an error after its text', async (t) => {
  const page = await client(t, allowed, { expected: failed }), text = prompt('break off');
  await page.evaluate((content) => {
    window.text = '';
    window.ended = (async () => {
      for await (const chunk of await client.chat.completions.create(ask(content, { stream: true }))) {
        text += chunk.choices[0].delta.content;
        document.body.textContent = text;
      }
      return 'ended';
    })().catch(caught);
  }, text);
  await hasText(page.locator('body'), 'The first half');
  await release(text);
  const error = await page.evaluate(() => ended);
  assert.ok(error.isAPIError, JSON.stringify(error));
  assert.equal(error.code, 'upstream_disconnected');
  assert.equal(await page.evaluate(() => window.text), 'The first half');
});

for (const origin of [stranger, stranger.replace('127.0.0.1', 'localhost')]) {
  test(`a page of ${new URL(origin).hostname} that is not allowed reaches nothing`, async (t) => {
    const page = await client(t, origin, { expected: failed }), text = prompt();
    const results = await page.evaluate(async ([content, url]) => {
      const simple = { method: 'POST', body: JSON.stringify(ask(content)) }; // no preflight stops it
      const tries = {
        chat: () => client.chat.completions.create(ask(content)),
        stream: () => client.chat.completions.create(ask(content, { stream: true })),
        image: () => client.images.generate({ model: 'gpt-image-e2e', prompt: content }),
        simple: () => fetch(`${url}/v1/chat/completions`, simple),
        worker: () => fetch(`${url}/`, simple),
        blind: async () => (await fetch(`${url}/`, { ...simple, mode: 'no-cors' })).type,
      };
      const outcomes = {};
      for (const [name, run] of Object.entries(tries)) {
        outcomes[name] = await run().then((value) => value, ({ name: type, constructor }) =>
          (constructor === sdk.APIConnectionError ? 'APIConnectionError' : type));
      }
      return outcomes;
    }, [text, root]);
    assert.deepEqual(results, {
      chat: 'APIConnectionError', stream: 'APIConnectionError', image: 'APIConnectionError',
      simple: 'TypeError', worker: 'TypeError', blind: 'opaque',
    });
    assert.deepEqual(await calls(text), []);
  });
}

test('a login cookie goes along with credentials: "include", and only then', async (t) => {
  const options = { baseURL: `${members}/v1`, expected: failed };
  const page = await client(t, allowed, { ...options, fetchOptions: { credentials: 'include' } });
  const refused = await chat(page, prompt());
  assert.ok(refused.isAuthentication, JSON.stringify(refused));
  await page.context().request.get(`${members}/login`); // shares its cookies with the page
  const text = prompt();
  assert.equal((await chat(page, text)).text, `You said: ${text}`);
  assert.equal((await upstreamCall(text, 'done')).cookie, '');

  const without = prompt();
  const error = await page.evaluate(async (content) => {
    const plain = client.withOptions({ fetchOptions: {} });
    return plain.chat.completions.create(ask(content)).catch(caught);
  }, without);
  assert.equal(error.status, 401);
  assert.deepEqual(await calls(without), []);

  const foreign = prompt();
  await page.goto(stranger); // the same visitor, lured to another page
  const outcome = await page.evaluate(([url, content]) => fetch(url, {
    method: 'POST', credentials: 'include', body: JSON.stringify({ model: 'gpt-e2e', messages: [{ role: 'user', content }] }),
  }).catch(({ name }) => name), [`${members}/v1/chat/completions`, foreign]);
  assert.equal(outcome, 'TypeError');
  assert.deepEqual(await calls(foreign), []);
});
