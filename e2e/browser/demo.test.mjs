// The demo page, as a person uses it.
import assert from 'node:assert/strict';
import { calls, demo, hasText, open, picture, prompt, release, root, test, upstreamCall } from './support.mjs';

const expected = /^Failed to load resource: /; // in tests of failures
const answers = (page) => page.locator('.assistant');
const problem = (page) => page.getByRole('alert');
const button = (page, name) => page.getByRole('button', { name, exact: true });
const tab = (page, name) => page.getByRole('tab', { name }).click();

async function say(page, text) {
  await page.getByLabel('Message').fill(text);
  await button(page, 'Send').click();
}

async function draw(page, text) {
  await tab(page, 'Image');
  await page.getByLabel('What to draw').fill(text);
  await button(page, 'Draw').click();
}

/** Opens the GraphQL tab and waits for its session. */
async function graphql(page) {
  await tab(page, 'GraphQL');
  await hasText(page.locator('#session'), /^session_/);
  return page.locator('#session').textContent();
}

/** Changes the text that an operation's variables send. */
async function ask(page, text) {
  const variables = page.getByLabel('Variables');
  await variables.fill((await variables.inputValue()).replace('Hello!', text));
}

test('the true program: chat, image and GraphQL', async (t) => {
  const page = await open(t, demo);
  await say(page, 'one two three');
  await hasText(answers(page), 'Assistant: You said: one two three');
  await draw(page, 'a lighthouse');
  await page.getByRole('img', { name: 'a lighthouse' }).waitFor();
  await graphql(page);
  await button(page, 'Run').click();
  await hasText(page.locator('#answer'), 'You said: Hello!');
  const policy = (await page.request.get(demo)).headers()['content-security-policy'];
  assert.match(policy, /^default-src 'none'/);
});

test('a text grows while the upstream is still sending', async (t) => {
  const page = await open(t, root), text = prompt('wait in the middle');
  await say(page, text);
  await hasText(answers(page), 'Assistant: The first half');
  assert.equal((await upstreamCall(text, 'running')).prompt, text);
  assert.equal(await page.getByRole('log').getAttribute('aria-busy'), 'true');
  await picture(page, 'chat-streaming');
  await release(text);
  await hasText(answers(page), 'Assistant: The first half, and the second.');
  await button(page, 'Send').waitFor();
  assert.equal(await page.getByRole('log').getAttribute('aria-busy'), 'false');
  assert.equal(await page.locator('.writing').count(), 0);
});

test('turns are sent as context, parameters only when filled in', async (t) => {
  const page = await open(t, root), [first, second] = [prompt(), prompt()];
  await say(page, first);
  await hasText(answers(page), `Assistant: You said: ${first}`);
  assert.deepEqual((await upstreamCall(first, 'done')).body,
    { messages: [{ role: 'user', content: first }], stream: true, model: (await calls(first))[0].body.model });
  await page.getByText('Model and parameters').click();
  await page.getByLabel('Model', { exact: true }).fill('gpt-e2e');
  await page.getByLabel('Temperature').fill('0');
  await page.getByLabel('Max tokens').fill('123');
  await say(page, second);
  await hasText(answers(page).nth(1), `Assistant: You said: ${second}`);
  assert.deepEqual((await upstreamCall(second, 'done')).body, {
    model: 'gpt-e2e', temperature: 0, max_completion_tokens: 123, stream: true,
    messages: [
      { role: 'user', content: first }, { role: 'assistant', content: `You said: ${first}` },
      { role: 'user', content: second },
    ],
  });
  await picture(page, 'chat-parameters');
});

test('a value out of range is shown, not sent', async (t) => {
  const page = await open(t, root), text = prompt();
  await page.getByText('Model and parameters').click();
  await page.getByLabel('Temperature').fill('9');
  await page.getByText('Model and parameters').click();
  await say(page, text);
  assert.ok(await page.getByLabel('Temperature').isVisible());
  assert.equal((await calls(text)).length, 0);
});

test('stopping a stream cancels the upstream and keeps the text', async (t) => {
  const page = await open(t, root), text = prompt('fall silent');
  await say(page, text);
  await hasText(answers(page), 'Assistant: The first half');
  await button(page, 'Stop').click();
  await upstreamCall(text, 'left');
  await hasText(page.locator('#log .hint'), 'Stopped.');
  await hasText(answers(page), 'Assistant: The first half');
  assert.equal(await problem(page).count(), 0);
});

test('stopping before the first word cancels the upstream', async (t) => {
  const page = await open(t, root), text = prompt('never answer');
  await say(page, text);
  await upstreamCall(text, 'running');
  await button(page, 'Stop').click();
  await upstreamCall(text, 'left');
  await hasText(page.locator('#log .hint'), 'Stopped.');
});

test('a rate limit says when to come back, and Retry works', async (t) => {
  const page = await open(t, root, { expected }), text = prompt('limit the rate once');
  await say(page, text);
  await hasText(problem(page), /^The limit is reached for now\. Try again in 7 seconds\. Rate limit reached.*Retry$/s);
  await picture(page, 'chat-rate-limit');
  await button(page, 'Retry').click();
  await hasText(answers(page), `Assistant: You said: ${text}`);
  assert.equal(await problem(page).count(), 0);
  assert.equal(await page.locator('.user').count(), 1);
});

test('a broken stream keeps its text and says why', async (t) => {
  const page = await open(t, root, { expected }), text = prompt('break off once');
  await say(page, text);
  await hasText(answers(page), 'Assistant: The first half');
  await release(text);
  await hasText(problem(page), 'The answer broke off. The upstream broke off the stream.Retry');
  await hasText(answers(page), 'Assistant: The first half');
  await picture(page, 'chat-broken');
  await page.reload(); // what is known of it outlives that
  await hasText(answers(page), 'Assistant: The first half');
  await button(page, 'Retry').click();
  await hasText(answers(page), `Assistant: You said: ${text}`);
  assert.equal(await problem(page).count(), 0);
});

for (const [script, reason] of [
  ['fail in the middle', 'The answer broke off. The model is overloaded.'],
  ['end early', 'The answer ended before it was complete.'],
  ['run out of tokens', 'The answer was cut at the limit of tokens.'],
]) {
  test(`a stream whose upstream is to ${script}`, async (t) => {
    const page = await open(t, root, { expected });
    await say(page, prompt(script));
    await hasText(problem(page), `${reason}Retry`);
    await hasText(answers(page), /^Assistant: The first half!?$/);
  });
}

test('a server error, and no network', async (t) => {
  const page = await open(t, root, { expected }), text = prompt();
  await say(page, prompt('break down'));
  await hasText(problem(page), 'The server could not get an answer. The server had an error.Retry');
  await page.context().setOffline(true);
  await say(page, text);
  await hasText(problem(page), /The server cannot be reached\. Is it still running, and are you online\?Retry$/);
  assert.equal(await button(page, 'Retry').count(), 1); // for the last turn alone
  await page.context().setOffline(false);
  await button(page, 'Retry').click();
  await hasText(answers(page), `Assistant: You said: ${text}`);
});

test('both shapes of REST errors are read', async (t) => {
  const page = await open(t, root, { expected });
  const texts = await page.evaluate(async () => {
    const problems = [];
    for (const path of ['v1/chat/completions', '']) {
      await post(path, { messages: 1 }).catch((problem) => problems.push(problem.message));
    }
    return problems;
  });
  assert.equal(texts.length, 2);
  for (const text of texts) assert.match(text, /^The server refused the request\. messages field is required and must be an array/);
});

test('Retry-After may be seconds or a date', async (t) => {
  const page = await open(t, root);
  const [one, seconds, date, past, none] = await page.evaluate(() => [
    '1', '90', new Date(Date.now() + 60_000).toUTCString(), 'Wed, 21 Oct 2015 07:28:00 GMT', null,
  ].map(whenToReturn));
  assert.equal(one, ' Try again in 1 second.');
  assert.equal(seconds, ' Try again in 90 seconds.');
  assert.match(date, /^ Try again in (59|60) seconds\.$/);
  assert.equal(past, ' Try again.');
  assert.equal(none, '');
});

test('the conversation survives a reload, also in the middle of an answer, until it is cleared', async (t) => {
  const page = await open(t, root), [first, second, third] = [prompt(), prompt('fall silent'), prompt()];
  await say(page, first);
  await hasText(answers(page), `Assistant: You said: ${first}`);
  await say(page, second);
  await hasText(answers(page).nth(1), 'Assistant: The first half');
  await page.reload();
  await upstreamCall(second, 'left');
  await hasText(answers(page), `Assistant: You said: ${first}\nAssistant: The first half`);
  await hasText(problem(page), 'The page was left before the answer was complete.Retry');
  await say(page, third);
  await hasText(answers(page).nth(2), `Assistant: You said: ${third}`);
  const { messages } = (await upstreamCall(third, 'done')).body;
  assert.deepEqual(messages.map(({ content }) => content), [first, `You said: ${first}`, second, 'The first half', third]);
  await button(page, 'Clear').click();
  assert.equal(await page.locator('.turn').count(), 0);
  await page.reload();
  await page.getByLabel('Message').waitFor();
  assert.equal(await page.locator('.turn').count(), 0);
});

test('Clear stops what is under way', async (t) => {
  const page = await open(t, root), text = prompt('fall silent');
  await say(page, text);
  await hasText(answers(page), 'Assistant: The first half');
  await button(page, 'Clear').click();
  await upstreamCall(text, 'left');
  await button(page, 'Send').waitFor();
  assert.equal(await page.locator('.turn').count(), 0);
});

test('what is remembered is bounded', async (t) => {
  const page = await open(t, root);
  await page.evaluate(() => {
    turns.value = Array.from({ length: 70 }, (_, i) => ({ question: `${i}`, answer: 'x'.repeat(3000) }));
  });
  await say(page, prompt());
  await hasText(answers(page).last(), /You said/);
  await button(page, 'Send').waitFor();
  const kept = await page.evaluate(() => localStorage.getItem('proxy-demo / turns'));
  assert.ok(kept.length <= 100_100, `${kept.length} characters`);
  const left = JSON.parse(kept);
  assert.ok(left.length > 20 && left.length <= 50, `${left.length} turns`);
  assert.equal(left.at(-2).question, '69');
});

test('an image is drawn with what is chosen', async (t) => {
  const page = await open(t, root), text = prompt('a harbour at night');
  await draw(page, text);
  const image = page.getByRole('img', { name: text });
  await image.waitFor();
  assert.ok(await image.evaluate(({ complete, naturalWidth }) => complete && naturalWidth) > 0);
  const plain = (await upstreamCall(text, 'done')).body;
  assert.deepEqual(Object.keys(plain).sort(), ['model', 'prompt']);
  await page.getByLabel('Size').selectOption('1536x1024');
  await page.getByLabel('Quality').selectOption('low');
  const other = prompt('a harbour by day');
  await draw(page, other);
  await page.getByRole('img', { name: other }).waitFor();
  const { size, quality } = (await upstreamCall(other, 'done')).body;
  assert.deepEqual({ size, quality }, { size: '1536x1024', quality: 'low' });
  await picture(page, 'image');
});

test('an image that is refused, and one that is stopped', async (t) => {
  const page = await open(t, root, { expected }), text = prompt('never answer');
  await draw(page, prompt('refuse to draw once'));
  await hasText(problem(page), 'The server refused the request. Your request was rejected by the safety system.Retry');
  await picture(page, 'image-refused');
  await button(page, 'Retry').click();
  await page.locator('figure img').waitFor();
  await draw(page, text);
  await upstreamCall(text, 'running');
  await button(page, 'Stop').click();
  await upstreamCall(text, 'left');
  await hasText(page.locator('#image [role=status]'), 'Stopped.');
});

test('GraphQL sends what it shows, and the session remembers', async (t) => {
  const page = await open(t, root), [first, second] = [prompt(), prompt()];
  const session = await graphql(page);
  await ask(page, first);
  const sent = page.waitForRequest(/\/graphql$/);
  await button(page, 'Run').click();
  const body = (await sent).postDataJSON();
  assert.equal(body.query, await page.getByLabel('Query').inputValue());
  assert.match(body.query, /getAIResponse/);
  assert.deepEqual(body.variables, JSON.parse(await page.getByLabel('Variables').inputValue()));
  assert.equal(body.variables.chat.sessionId, session);
  await hasText(page.locator('#answer'), `You said: ${first}`);
  const result = JSON.parse(await page.locator('#result').textContent());
  assert.equal(result.data.getAIResponse.content, `You said: ${first}`);
  await picture(page, 'graphql');

  await page.reload();
  assert.equal(await graphql(page), session);
  await ask(page, second);
  await button(page, 'Run').click();
  await hasText(page.locator('#answer'), `You said: ${second}`);
  const { messages } = (await upstreamCall(second, 'done')).body;
  assert.deepEqual(messages.map(({ content }) => content), [first, `You said: ${first}`, second]);

  await page.getByLabel('Operation').selectOption('Show what the session remembers');
  await button(page, 'Run').click();
  await hasText(page.locator('#result'), /"content": "You said: .*"content": "You said: /s);

  await button(page, 'Forget session').click();
  await hasText(page.locator('#session'), /^session_/);
  await page.waitForFunction((old) => document.querySelector('#session').textContent !== old, session);
  const history = await page.request.post(`${root}/graphql`, {
    data: { query: 'query($id: String) { chatHistory(sessionId: $id) { content } }', variables: { id: session } },
  });
  assert.deepEqual((await history.json()).data.chatHistory, []);
});

test('a GraphQL subscription grows', async (t) => {
  const page = await open(t, root), text = prompt('wait in the middle');
  await graphql(page);
  await page.getByLabel('Operation').selectOption('Ask, and see the answer grow');
  await ask(page, text);
  await button(page, 'Run').click();
  await hasText(page.locator('#answer'), 'The first half');
  await upstreamCall(text, 'running');
  await release(text);
  await hasText(page.locator('#answer'), 'The first half, and the second.');
  await hasText(page.locator('#graphql [role=status]'), 'Done.');
  const silent = prompt('fall silent');
  await page.getByLabel('Variables').fill(JSON.stringify({ input: { messages: [{ role: 'user', content: silent }] } }));
  await button(page, 'Run').click();
  await hasText(page.locator('#answer'), 'The first half');
  await button(page, 'Stop').click();
  await upstreamCall(silent, 'left');
  await hasText(page.locator('#graphql [role=status]'), 'Stopped.');
});

test('GraphQL errors are told', async (t) => {
  const page = await open(t, root, { expected }), limited = prompt('limit the rate once');
  await graphql(page);
  await ask(page, limited);
  await button(page, 'Run').click();
  await hasText(problem(page), /Rate limit reached/);
  await hasText(page.locator('#result'), /UPSTREAM_RATE_LIMITED/);
  await picture(page, 'graphql-rate-limit');
  await button(page, 'Retry').click();
  await hasText(page.locator('#answer'), `You said: ${limited}`);
  await page.getByLabel('Query').fill('{ nothing }');
  await button(page, 'Run').click();
  await hasText(problem(page), /Cannot query field "nothing"/);
  await page.getByLabel('Variables').fill('{');
  await button(page, 'Run').click();
  await hasText(problem(page), /^The variables are not JSON: /);
});

test('a session that cannot be started is tried again', async (t) => {
  const page = await open(t, root, { expected });
  await page.context().setOffline(true);
  await tab(page, 'GraphQL');
  await hasText(problem(page), 'The server cannot be reached. Is it still running, and are you online?Retry');
  await page.context().setOffline(false);
  await button(page, 'Retry').click();
  await hasText(page.locator('#session'), /^session_/);
  assert.equal(await problem(page).count(), 0);
});

test('what a model writes stays text', async (t) => {
  const page = await open(t, root);
  const markup = '<img src=x onerror=alert(1)><script>alert(2)</script><style>*{display:none}</style>';
  await say(page, markup);
  await hasText(answers(page), `Assistant: You said: ${markup}`);
  assert.equal(await page.locator('#log img, #log script, #log style').count(), 0);
});

test('below a prefix the page calls what is there, and remembers apart', async (t) => {
  const page = await open(t, `${root}/ai/`), text = prompt();
  const asked = page.waitForRequest(/completions$/);
  await say(page, text);
  assert.equal((await asked).url(), `${root}/ai/v1/chat/completions`);
  await hasText(answers(page), `Assistant: You said: ${text}`);
  const drawn = page.waitForRequest(/generations$/);
  await draw(page, text);
  assert.equal((await drawn).url(), `${root}/ai/v1/images/generations`);
  await page.getByRole('img', { name: text }).waitFor();
  await graphql(page);
  await page.goto(root);
  await page.getByRole('tab', { name: 'Chat', selected: true }).waitFor();
  assert.equal(await page.locator('.turn').count(), 0);
});

test('events are read as the HTML standard says, wherever they are torn', async (t) => {
  const page = await open(t, root);
  const read = await page.evaluate(async () => {
    const stream = '\ufeff: comment\n\ndata: LF é\n\ndata:CR\r\revent: named\r\ndata: CRLF\r\ndata:  two\r\n\r\n'
      + 'data\n\nevent: lost\n\nid: 7\nretry: 9\ndatax: no\ndata: a:b\n\ndata: no blank line\n';
    const bytes = new TextEncoder().encode(stream), results = new Set();
    for (let i = 0; i <= bytes.length; i++) {
      for (const j of [i, i + 1, bytes.length]) { // also a single byte by itself, and nothing
        const body = new ReadableStream({
          start(controller) {
            for (const piece of [bytes.slice(0, i), bytes.slice(i, j), bytes.slice(j)]) controller.enqueue(piece);
            controller.close();
          },
        });
        const seen = [];
        for await (const { name, data } of events(body)) seen.push([name, data]);
        results.add(JSON.stringify(seen));
      }
    }
    return [...results];
  });
  assert.deepEqual(read.map((text) => JSON.parse(text)), [
    [['', 'LF é'], ['', 'CR'], ['named', 'CRLF\n two'], ['', ''], ['', 'a:b']],
  ]);
});

test('closing the page in the middle of a stream cancels the upstream within 3 s', async (t) => {
  for (const script of ['fall silent', 'never answer']) {
    const page = await open(t, root), text = prompt(script);
    await say(page, text);
    await upstreamCall(text, 'running');
    if (script === 'fall silent') await hasText(answers(page), 'Assistant: The first half');
    const closed = Date.now();
    await page.close();
    const { endedAt } = await upstreamCall(text, 'left');
    t.diagnostic(`${script}: ${endedAt - closed} ms`);
    assert.ok(endedAt - closed < 3_000, `${endedAt - closed} ms`);
  }
});
