// Checks ../testdata/introspection_*.json, which `go test -run Introspection
// -update .` wrote: a client that builds its schema from them has to end up
// with the SDL.
import { readFileSync } from 'node:fs';
import assert from 'node:assert/strict';
import { buildClientSchema, buildSchema, lexicographicSortSchema, printSchema, validateSchema } from 'graphql';

const read = (path) => readFileSync(new URL(path, import.meta.url), 'utf8');

for (const [name, sdl] of [['main', '../../../schema.graphql'], ['kitchen', '../testdata/kitchen.graphql']]) {
  const client = buildClientSchema(JSON.parse(read(`../testdata/introspection_${name}.json`)).data);
  assert.deepEqual(validateSchema(client), []);
  const print = (schema) => printSchema(lexicographicSortSchema(schema));
  assert.equal(print(client), print(buildSchema(read(sdl))));
  console.log(`${name}: ${Object.keys(client.getTypeMap()).length} types, equal to the SDL`);
}
