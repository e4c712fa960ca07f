// Writes ../testdata/verdicts.json: what graphql-js says about the documents of
// documents.mjs and about systematic mutations of some of them. And
// ../testdata/introspection.graphql: its introspection query, all options on.
//
//   npm install && npm run generate
import { readFileSync, writeFileSync } from 'node:fs';
import { buildSchema, getIntrospectionQuery, parse, validate, version, Lexer, Source, TokenKind } from 'graphql';
import documents from './documents.mjs';

const read = (path) => readFileSync(new URL(path, import.meta.url), 'utf8');
const schemas = {
  main: buildSchema(read('../../../schema.graphql')),
  kitchen: buildSchema(read('../testdata/kitchen.graphql')),
};

function verdict(schema, document) {
  let tree;
  try {
    tree = parse(document);
  } catch {
    return 'syntax';
  }
  try {
    return validate(schemas[schema], tree).length > 0 ? 'invalid' : 'valid';
  } catch {
    return 'invalid'; // SingleFieldSubscriptions throws on a variable in @skip at the root
  }
}

function tokens(document) {
  const lexer = new Lexer(new Source(document));
  const list = [];
  while (lexer.advance().kind !== TokenKind.EOF) list.push(lexer.token);
  return list;
}

// mutations drop, double, rename and retype one token at a time.
function* mutations(document) {
  for (const { kind, start, end } of tokens(document)) {
    const [before, token, after] = [document.slice(0, start), document.slice(start, end), document.slice(end)];
    yield before + after;
    yield before + token + ' ' + token + after;
    if (kind === TokenKind.NAME) yield before + token + 'x' + after;
    if (kind === TokenKind.INT || kind === TokenKind.STRING) {
      for (const value of ['null', '7', '"s"', '1.5', 'E', '{}', '[]']) yield before + value + after;
    }
    if (kind === TokenKind.BANG) yield before + '!]' + after;
  }
}

const bases = [
  ['main', 'mutation M($i: ChatInput!) { getAIResponse(input: $i) { id usage { totalTokens } } }'],
  ['main', 'query Q($s: String, $n: Int = 3) { chatHistory(sessionId: $s, last: $n) { id ...F } } fragment F on ChatMessage { role @include(if: true) }'],
  ['main', 'mutation { getAIResponse(input: {messages: [{role: "user"}], n: 1, stop: ["x"], extra: {k: 1}}) { content } }'],
  ['main', 'subscription ($i: ChatInput!) { aiResponse(input: $i) { done } }'],
  ['kitchen', '{ echo(in: {id: 1, inner: {c: USER}, matrix: [[1]]}, role: USER, pick: {b: 1}) node { ... on Node { id } } }'],
  ['kitchen', 'query ($r: [Role!]! = [USER], $f: Float) { echo(roles: $r, f: $f) @skip(if: false) }'],
];

const seen = new Set();
const out = [];
function add(schema, document) {
  const key = schema + document;
  if (seen.has(key)) return;
  seen.add(key);
  out.push([schema, verdict(schema, document), document]);
}
for (const [schema, document] of documents) add(schema, document);
const written = out.length;
for (const [schema, base] of bases) {
  add(schema, base);
  for (const document of mutations(base)) add(schema, document);
}

writeFileSync(
  new URL('../testdata/introspection.graphql', import.meta.url),
  getIntrospectionQuery({
    descriptions: true,
    specifiedByUrl: true,
    directiveIsRepeatable: true,
    schemaDescription: true,
    inputValueDeprecation: true,
    oneOf: true,
  }).trim() + '\n',
);

const lines = out.map((entry) => '  ' + JSON.stringify(entry));
writeFileSync(
  new URL('../testdata/verdicts.json', import.meta.url),
  `{"graphql":${JSON.stringify(version)},"verdicts":[\n${lines.join(',\n')}\n]}\n`,
);
console.log(`graphql ${version}: ${written} documents by hand, ${out.length - written} mutations`);
