// What the SDKs do, each as a function of a root that returns what a program
// would see of it. Whatever differs from call to call by its nature is left out.
import { createOpenAI } from '@ai-sdk/openai';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { experimental_generateImage as generateImage, generateText, stepCountIs, streamText, tool } from 'ai';
import OpenAI, { toFile } from 'openai';
import { z } from 'zod';

const ask = (content, more) => ({ model: 'gpt-4o-mini', messages: [{ role: 'user', content }], ...more });
const client = (env, more) => new OpenAI({ baseURL: env.root, apiKey: env.key, maxRetries: 0, ...more });
const tools = [{
  type: 'function',
  function: { name: 'get_weather', parameters: { type: 'object', properties: { city: { type: 'string' } }, required: ['city'] } },
}];

/** An answer without what is new in each. */
const stable = (value) => JSON.parse(JSON.stringify(value, (key, v) => {
  if (key === 'created' || key === 'system_fingerprint') return undefined;
  if (key === 'id' && typeof v === 'string') return v.replace(/[-_].*/, '');
  return v;
}));

async function failure(run) {
  try {
    await run();
  } catch (error) {
    return {
      class: error.constructor.name, status: error.status ?? error.statusCode, code: error.code, type: error.type, param: error.param,
      message: error.message.replace(/req_\w+/, 'req'),
    };
  }
  return 'no error';
}

async function collected(stream) {
  const chunks = [];
  for await (const chunk of stream) chunks.push(stable(chunk));
  return chunks;
}

/** What the upstream has of the last request about a prompt, once it is over. */
async function journal(env, about, wanted) {
  for (const end = Date.now() + 10_000; ; await new Promise((done) => setTimeout(done, 20))) {
    const entries = await (await fetch(`${env.upstream}/__aimock/journal`)).json();
    const list = entries.filter((e) => JSON.stringify(e.body ?? '').includes(about));
    if (wanted(list) || Date.now() > end) return list;
  }
}

/** Whether the upstream has seen the caller of a prompt go. */
async function isLeft(env, about) {
  for (const end = Date.now() + 5_000; Date.now() < end; await new Promise((done) => setTimeout(done, 20))) {
    const left = await (await fetch(`${env.upstream}/left`)).json();
    if (left.some((body) => body.includes(about))) return true;
  }
  return false;
}

export const cases = {
  'openai: chat': async (env) => stable(await client(env).chat.completions.create(ask('hello'))),
  'openai: chat with every kind of value': async (env) => stable(await client(env).chat.completions.create(ask('hello', {
    temperature: 0.1, top_p: 1, n: 1, stop: ['\n'], logit_bias: { 50256: -100 }, user: 'ü', metadata: { a: 'b' }, seed: 12345678901, response_format: { type: 'text' },
  }))),
  'openai: stream': async (env) => collected(await client(env).chat.completions.create(ask('hello', { stream: true }))),
  'openai: stream with usage': async (env) =>
    collected(await client(env).chat.completions.create(ask('hello', { stream: true, stream_options: { include_usage: true } }))),
  'openai: long stream': async (env) => collected(await client(env).chat.completions.create(ask('long', { stream: true }))),
  'openai: stream helper': async (env) => stable(await client(env).chat.completions.stream(ask('hello')).finalChatCompletion()),
  'openai: tools': async (env) => stable(await client(env).chat.completions.create(ask('weather', { tools }))),
  'openai: stream of tools': async (env) => collected(await client(env).chat.completions.create(ask('weather', { tools, stream: true }))),
  'openai: tool runner': async (env) => {
    const runner = client(env).chat.completions.runTools(ask('weather', {
      tools: [{ type: 'function', function: { ...tools[0].function, function: ({ city }) => `rain in ${city}`, parse: JSON.parse } }],
    }));
    return runner.finalContent();
  },
  'openai: abort of a stream': async (env) => {
    const about = `slow ${env.name} ${Date.now()}`;
    const stream = await client(env).chat.completions.create(ask(about, { stream: true }));
    let chunks = 0;
    for await (const chunk of stream) {
      if (chunk && ++chunks === 3) break; // which aborts
    }
    return { chunks, left: await isLeft(env, about) };
  },
  'openai: abort of a request': async (env) => {
    const controller = new AbortController();
    setTimeout(() => controller.abort(), 100);
    return failure(() => client(env).chat.completions.create(ask('slow', { stream: true }), { signal: controller.signal })
      .then(collected));
  },
  'openai: stream that is cut': async (env) => {
    const seen = [];
    const failed = await failure(async () => {
      for await (const chunk of await client(env).chat.completions.create(ask('cut', { stream: true }))) {
        seen.push(chunk.choices[0].delta.content);
      }
    });
    return { seen, failed };
  },
  'openai: image as base64': async (env) => stable(await client(env).images.generate({ model: 'gpt-image-1', prompt: 'a hut' })),
  'openai: image as a link': async (env) => stable(await client(env).images.generate({ model: 'dall-e-3', prompt: 'a link' })),
  'openai: image edit': async (env) => stable(await client(env).images.edit({
    model: 'gpt-image-1', prompt: 'a hut', image: await toFile(Buffer.alloc(70_000, 1), 'in.png', { type: 'image/png' }),
  })),
  'openai: headers': async (env) => {
    const { response } = await client(env).chat.completions.create(ask('hello')).withResponse();
    const names = ['content-type', 'x-ratelimit-limit-requests', 'x-ratelimit-remaining-tokens', 'openai-version'];
    return { names: names.map((name) => response.headers.get(name)), id: Boolean(response.headers.get('x-request-id')) };
  },
  'openai: retry after 429': async (env) => {
    const about = `again ${env.name} ${Date.now()}`;
    const began = Date.now();
    const answer = await client(env, { maxRetries: 2 }).chat.completions.create(ask(about));
    const list = await journal(env, about, (l) => l.length >= 2);
    return { text: answer.choices[0].message.content, requests: list.length, waited: Date.now() - began >= 900 };
  },
  'openai: retries of 500': async (env) => {
    const about = `fail 500 ${env.name} ${Date.now()}`;
    const failed = await failure(() => client(env, { maxRetries: 1 }).chat.completions.create(ask(about)));
    return { failed, requests: (await journal(env, about, (l) => l.length >= 2)).length };
  },
  ...Object.fromEntries([400, 401, 403, 404, 409, 422, 429, 500, 503].flatMap((status) => [
    [`openai: ${status}`, (env) => failure(() => client(env).chat.completions.create(ask(`fail ${status}`)))],
    [`openai: ${status} for a stream`, (env) => failure(() => client(env).chat.completions.create(ask(`fail ${status}`, { stream: true })))],
  ])),
};

const providers = {
  '@ai-sdk/openai': (env) => createOpenAI({ baseURL: env.root, apiKey: env.key }).chat('gpt-4o-mini'),
  '@ai-sdk/openai-compatible': (env) =>
    createOpenAICompatible({ name: 'proxy', baseURL: env.root, apiKey: env.key, includeUsage: true }).chatModel('gpt-4o-mini'),
};
for (const [name, model] of Object.entries(providers)) {
  const text = (result) => ({ text: result.text, finish: result.finishReason, usage: result.usage.totalTokens });
  cases[`${name}: generateText`] = async (env) => text(await generateText({ model: model(env), prompt: 'hello', maxRetries: 0 }));
  cases[`${name}: streamText`] = async (env) => {
    const result = streamText({ model: model(env), prompt: 'hello', maxRetries: 0 });
    const pieces = [];
    for await (const piece of result.textStream) pieces.push(piece);
    return { pieces, finish: await result.finishReason, usage: (await result.usage).totalTokens };
  };
  cases[`${name}: tools in a stream`] = async (env) => {
    const weather = tool({ inputSchema: z.object({ city: z.string() }), execute: async ({ city }) => `rain in ${city}` });
    const result = streamText({ model: model(env), prompt: 'weather', tools: { get_weather: weather }, stopWhen: stepCountIs(3), maxRetries: 0 });
    return { text: await result.text, steps: (await result.steps).length };
  };
  cases[`${name}: error`] = (env) => failure(() => generateText({ model: model(env), prompt: 'fail 422', maxRetries: 0 }));
}
cases['@ai-sdk/openai: image'] = async (env) => {
  const model = createOpenAI({ baseURL: env.root, apiKey: env.key }).image('gpt-image-1');
  return (await generateImage({ model, prompt: 'a hut', maxRetries: 0 })).image.base64.length;
};
