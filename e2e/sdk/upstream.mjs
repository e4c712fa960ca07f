// The upstream: aimock with the answers that the cases ask for by their prompts.
// It prints its root, and ends with its standard input.
import { createServer, request } from 'node:http';
import { LLMock } from '@copilotkit/aimock';

const mock = new LLMock({ port: 0, host: '127.0.0.1', logLevel: 'silent' });
const usage = { prompt_tokens: 11, completion_tokens: 7, total_tokens: 18 };

mock.onMessage('hello', { content: 'Hi there, traveller from "afar"! Grüezi 🙂', usage });
mock.onMessage('long', { content: 'All work and no play. '.repeat(400) }, { chunkSize: 200 });
mock.onMessage('slow', { content: 'tick '.repeat(400) }, { chunkSize: 5, latency: 50 });
mock.onMessage('cut', { content: 'This will not be said to its end, whatever you do.' }, { chunkSize: 5, latency: 30, truncateAfterChunks: 4 });
mock.on({ userMessage: 'weather', hasToolResult: true }, { content: 'It rains in Zürich.' });
mock.on({ userMessage: 'weather' }, { toolCalls: [{ name: 'get_weather', arguments: '{"city":"Zürich","days":[1,2]}' }] });
for (const status of [400, 403, 404, 409, 422, 429, 500, 503]) {
  mock.onMessage(`fail ${status}`, {
    status, error: { message: `This is ${status}.`, type: 'some_type', param: 'messages', code: 'some_code' },
  });
}
mock.onMessage('fail 401', { status: 401, error: { message: 'Incorrect API key provided.', type: 'invalid_request_error', code: 'invalid_api_key' } });
for (const way of ['straight', 'proxy']) {
  const userMessage = `again ${way}`;
  mock.on({ userMessage, sequenceIndex: 0 }, { status: 429, retryAfter: 1, error: { message: 'Slower.', type: 'requests', code: 'rate_limit_exceeded' } });
  mock.on({ userMessage, sequenceIndex: 1 }, { content: 'Now it works.' });
}
const picture = Buffer.alloc(100_000, 'picture').toString('base64');
mock.onImage('a hut', { image: { b64Json: picture } });
mock.onImage('a link', { image: { url: 'https://images.example/hut.png', revisedPrompt: 'A hut at a lake' } });

await mock.start();

// In front of it stands a relay that notes which answers their callers left.
const left = [];
const front = createServer((req, res) => {
  if (req.url === '/left') return res.end(JSON.stringify(left));
  let body = '';
  req.on('data', (piece) => { body += piece; });
  const onward = request(mock.url + req.url, { method: req.method, headers: req.headers }, (answer) => {
    res.writeHead(answer.statusCode, answer.headers);
    answer.on('error', () => res.destroy()); // cut
    answer.pipe(res);
  });
  onward.on('error', () => res.destroy());
  req.pipe(onward);
  res.on('close', () => {
    if (res.writableFinished || res.errored) return;
    left.push(body);
    onward.destroy();
  });
});
front.listen(0, '127.0.0.1', () => console.log(`http://127.0.0.1:${front.address().port}`));
process.stdin.on('end', () => process.exit(0)).resume();
