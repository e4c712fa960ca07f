import assert from 'node:assert/strict';
import { ClientError, GraphQLClient, gql } from 'graphql-request';
import {
  buildClientSchema, buildSchema, getIntrospectionQuery, parse, printSchema, validate, validateSchema,
} from 'graphql';
import {
  ask, assertNoSecrets, assertRateLimited, assertTimestamp, calls, documents, endpoint, prompt, recorder, root, test,
  upstreamCall,
} from './support.mjs';

const wire = recorder();
const client = new GraphQLClient(endpoint, { fetch: wire.fetch });

test('the documents of the original worker, with variables', async () => {
  const { createSession } = await client.request(documents.createSession);
  assert.equal(createSession.success, true);
  assert.match(createSession.sessionId, /^session_\d+_[0-9a-z]{25}$/);
  const { sessionId } = createSession;
  assert.equal(wire.last().accept, 'application/graphql-response+json, application/json');
  assert.match(wire.last().contentType, /^application\/graphql-response\+json/);

  const content = prompt();
  const { sendMessage } = await client.request(documents.sendMessage, { input: { sessionId, content, role: 'user' } });
  assert.deepEqual(Object.keys(sendMessage), ['id', 'content', 'isUser', 'timestamp', 'success', 'error']);
  assert.match(sendMessage.id, /^msg_\d+_user$/);
  assert.equal(sendMessage.content, content);
  assert.equal(sendMessage.isUser, true);
  assert.equal(sendMessage.success, true);
  assert.equal(sendMessage.error, null);
  assertTimestamp(sendMessage.timestamp);
  assert.deepEqual(await calls(content), []);

  // The stored turn is the context.
  const { getAIResponse } = await client.request(documents.getAIResponse, { input: { sessionId } });
  assert.equal(getAIResponse.content, `You said: ${content}`);
  assert.equal(getAIResponse.isUser, false);
  assert.equal(getAIResponse.success, true);
  assert.equal(getAIResponse.error, null);
  assertTimestamp(getAIResponse.timestamp);

  const { chatHistory } = await client.request(documents.chatHistory, { sessionId });
  assert.deepEqual(chatHistory.map(({ content, isUser }) => [content, isUser]), [
    [content, true], [`You said: ${content}`, false],
  ]);
  assert.deepEqual(chatHistory.map(({ id }) => id), [sendMessage.id, getAIResponse.id]);
});

test('generateImage', async (t) => {
  await t.test('as base64', async () => {
    const asked = prompt('a cat');
    const { generateImage } = await client.request(documents.generateImage, { input: { prompt: asked, size: '1024x1024' } });
    assert.match(generateImage.id, /^img_\d+$/);
    assert.equal(generateImage.prompt, asked);
    assert.equal(generateImage.size, '1024x1024');
    assert.equal(generateImage.success, true);
    assertTimestamp(generateImage.timestamp);
    const [{ url, b64_json }] = generateImage.images;
    assert.equal(Buffer.from(b64_json, 'base64').subarray(1, 4).toString(), 'PNG');
    assert.equal(url, `data:image/png;base64,${b64_json}`);
  });
  await t.test('as a URL', async () => {
    const { generateImage } = await client.request(documents.generateImage, {
      input: { prompt: prompt('draw by URL'), model: 'dall-e-3', n: 1, response_format: 'url' },
    });
    assert.deepEqual(generateImage.images, [{ url: 'https://images.example.com/cat.png', b64_json: null }]);
    assert.equal(generateImage.model, 'dall-e-3');
  });
  await t.test('without a prompt', async () => {
    const { response } = await rejected(client.request(documents.generateImage, { input: {} }));
    assert.equal(response.errors[0].message, 'prompt field is required for image generation');
  });
});

test('variables arrive as they are', async () => {
  const content = prompt('say "你好" 🙂');
  await client.request(documents.getAIResponse, ask(content, {
    model: 'gpt-4o', temperature: 0, top_p: 0, seed: 7, stop: ['a', 'b'], logit_bias: { 50256: -100 }, user: null,
    extra: { vendor_option: { deep: [1, 2.5, null] } },
  }));
  const { body, authorization, path } = await upstreamCall(content, 'done');
  assert.equal(path, '/v1/chat/completions');
  assert.match(authorization, /^Bearer sk-e2e-server-/);
  assert.equal(body.temperature, 0);
  assert.equal(body.top_p, 0);
  assert.equal(body.seed, 7);
  assert.equal(body.model, 'gpt-4o');
  assert.equal(body.user, null);
  assert.deepEqual(body.stop, ['a', 'b']);
  assert.deepEqual(body.logit_bias, { 50256: -100 });
  assert.deepEqual(body.vendor_option, { deep: [1, 2.5, null] });
  assert.equal('extra' in body || 'sessionId' in body || 'stream' in body, false);
});

test('literals, aliases and fragments', async () => {
  const content = prompt();
  const data = await client.request(gql`
    # 你好: comments may be in any language
    fragment Turn on ChatMessage { ...Text, who: role, isUser }
    fragment Text on ChatMessage { text: content }
    mutation Both($role: String = "user", $more: Boolean = false) {
      first: sendMessage(input: { content: "one \uD83D\uDE42 \u{1F642}", role: $role }) { ...Turn }
      answer: getAIResponse(input: {
        messages: [{ role: "system", content: """
          Be "brief".
          """ }, { role: "user", content: "${content}" }],
        temperature: 0.5, max_tokens: 10, stop: "x", user: null, metadata: { topic: "e2e", who: [$role] }
      }) { ...Turn, ... on ChatMessage { __typename }, model @include(if: $more), finishReason @skip(if: $more) }
    }`);
  assert.deepEqual(data, {
    first: { text: 'one 🙂 🙂', who: 'user', isUser: true },
    answer: {
      text: `You said: ${content}`, who: 'assistant', isUser: false, __typename: 'ChatMessage', finishReason: 'stop',
    },
  });
  assert.deepEqual(Object.keys(data.answer), ['text', 'who', 'isUser', '__typename', 'finishReason']);
  const { body } = await upstreamCall(content, 'done');
  assert.equal(body.messages[0].content, 'Be "brief".');
  assert.deepEqual(body.stop, ['x']);
  assert.deepEqual(body.metadata, { topic: 'e2e', who: ['user'] });
});

test('operationName', async () => {
  const document = `${Object.values(documents).join('\n')}`;
  const send = async (operationName) => {
    const response = await fetch(endpoint, {
      method: 'POST',
      headers: { 'content-type': 'application/json', accept: 'application/graphql-response+json' },
      body: JSON.stringify({ query: document, operationName, variables: { sessionId: 'nobody' } }),
    });
    return { status: response.status, ...await response.json() };
  };
  assert.deepEqual(await send('ChatHistory'), { status: 200, data: { chatHistory: [] } });
  assert.equal((await send('CreateSession')).data.createSession.success, true);
  for (const name of ['Nothing', undefined, null]) {
    const { status, errors, ...rest } = await send(name);
    assert.equal(status, 400);
    assert.equal(errors[0].extensions.code, 'OPERATION_RESOLUTION_FAILURE');
    assert.deepEqual(rest, {});
  }
  // The client itself names the operation of each document it sends.
  const { data } = await client.rawRequest(documents.chatHistory, { sessionId: 'nobody' });
  assert.deepEqual(data, { chatHistory: [] });
});

test('queries over GET', async () => {
  const get = new GraphQLClient(endpoint, { method: 'GET', jsonSerializer: JSON, fetch: wire.fetch });
  assert.deepEqual(await get.request(documents.chatHistory, { sessionId: 'nobody' }), { chatHistory: [] });
  assert.equal(wire.last().method, 'GET');
});

test('introspection', async (t) => {
  const response = await fetch(`${endpoint}/schema`);
  assert.equal(response.status, 200);
  assert.match(response.headers.get('content-type'), /^text\/plain/);
  const sdl = await response.text();
  const wanted = printSchema(buildSchema(sdl));

  const options = [
    'descriptions', 'specifiedByUrl', 'directiveIsRepeatable', 'schemaDescription', 'inputValueDeprecation', 'oneOf',
  ];
  await t.test(`all ${2 ** options.length} mixes of options`, async () => {
    for (let bits = 0; bits < 2 ** options.length; bits++) {
      const mix = Object.fromEntries(options.map((name, i) => [name, (bits & (1 << i)) !== 0]));
      const schema = buildClientSchema(await client.request(getIntrospectionQuery(mix)));
      assert.deepEqual(validateSchema(schema), [], JSON.stringify(mix));
      if (mix.descriptions) {
        assert.equal(printSchema(schema), wanted, JSON.stringify(mix));
      }
    }
  });
  await t.test('default options', async () => {
    const introspection = await client.request(getIntrospectionQuery());
    assert.equal(printSchema(buildClientSchema(introspection)), wanted);
    assert.deepEqual(await client.request(getIntrospectionQuery()), introspection);
  });
  await t.test('the documents validate against it', async () => {
    const schema = buildClientSchema(await client.request(getIntrospectionQuery()));
    for (const document of Object.values(documents)) {
      assert.deepEqual(validate(schema, parse(document)), []);
    }
  });
});

test('errors', async (t) => {
  await t.test('429 of the upstream', async () => {
    const { response } = await rejected(client.request(documents.getAIResponse, ask(prompt('limit the rate'))));
    assert.equal(response.status, 200);
    assert.equal(response.errors.length, 1);
    assertRateLimited(response.errors[0]);
    assert.deepEqual(response.data, { getAIResponse: null });
  });
  await t.test('429 beside a field that succeeded, errorPolicy all', async () => {
    const all = new GraphQLClient(endpoint, { errorPolicy: 'all' });
    const { data, errors } = await all.rawRequest(
      `mutation M($input: ChatInput!) { createSession { success } getAIResponse(input: $input) { content } }`,
      ask(prompt('limit the rate')));
    assert.deepEqual(data, { createSession: { success: true }, getAIResponse: null });
    assertRateLimited(errors[0]);
  });
  await t.test('the key is refused', async () => {
    const { response } = await rejected(client.request(documents.getAIResponse, ask(prompt('refuse the key'))));
    assert.match(response.errors[0].extensions.code, /^UPSTREAM_/);
    assertNoSecrets(response);
  });
  await t.test('validation', async () => {
    const { response } = await rejected(client.request('{ chatHistory { id nothing } }'));
    assert.equal(response.status, 400);
    assert.equal(response.data, undefined);
    const [error] = response.errors;
    assert.match(error.message, /nothing/);
    assert.equal(error.extensions.code, 'GRAPHQL_VALIDATION_FAILED');
    assert.deepEqual(error.locations, [{ line: 1, column: 20 }]);
  });
  await t.test('syntax', async () => {
    const { response } = await rejected(client.rawRequest('{ chatHistory { id }'));
    assert.equal(response.status, 400);
    assert.equal(response.errors[0].extensions.code, 'GRAPHQL_PARSE_FAILED');
  });
  await t.test('variables', async () => {
    const content = prompt();
    for (const more of [{ max_tokens: '12' }, { temperature: true }, { seed: 2 ** 31 }, { nothing: 1 }]) {
      const { response } = await rejected(client.request(documents.getAIResponse, ask(content, more)));
      assert.equal(response.status, 400, JSON.stringify(more));
      assert.equal(response.data, undefined);
      assert.equal(response.errors[0].extensions.code, 'BAD_USER_INPUT');
      assert.match(response.errors[0].message, new RegExp(`\\$input\\b.*${Object.keys(more)[0]}`));
    }
    assert.deepEqual(await calls(content), []);
  });
  await t.test('two paid fields', async () => {
    const content = prompt();
    const { response } = await rejected(client.request(
      `mutation M($input: ChatInput!) { a: getAIResponse(input: $input) { id } b: getAIResponse(input: $input) { id } }`,
      ask(content)));
    assert.equal(response.status, 400);
    assert.equal(response.errors[0].extensions.code, 'TOO_MANY_UPSTREAM_CALLS');
    assert.deepEqual(await calls(content), []);
  });
  await t.test('batches', async () => {
    const error = await rejected(client.batchRequests([{ document: '{ chatHistory { id } }' }]), Error);
    assert.equal(error.response.status, 400);
  });
});

test('a caller that leaves', async () => {
  const content = prompt('never answer');
  const controller = new AbortController();
  const request = client.request({ document: documents.getAIResponse, variables: ask(content), signal: controller.signal });
  await upstreamCall(content, 'running');
  controller.abort();
  await assert.rejects(request);
  await upstreamCall(content, 'left');
});


/** The error of a request that fails. */
async function rejected(request, type = ClientError) {
  const error = await request.then(() => assert.fail('the request succeeded'), (error) => error);
  assert.ok(error instanceof type, String(error));
  return error;
}
