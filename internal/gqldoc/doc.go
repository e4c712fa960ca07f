// Package gqldoc is the document layer of the GraphQL handler: it takes the
// text of a request to an executable operation, and the operation's result to
// JSON.
//
// The work is shared by two libraries. gqlparser loads the SDL, parses
// documents and holds the validation rules; graphql-go executes and
// introspects, with types built from the same SDL. What lies between is here:
//
//   - bounds on everything a client can make large, checked before the code
//     whose cost grows with it (parse.go, bounds.go);
//   - the conversion of a document to graphql-go's syntax tree (convert.go).
//     Arguments stay behind, because graphql-go has no null literal, cannot
//     tell null from absent and coerces every variable on every execution;
//   - the coercion of variables and arguments against the SDL (coerce.go);
//   - the guard around resolvers (execute.go) and the encoder that writes
//     results in the order of the query (encode.go), which graphql-go's maps
//     have lost.
//
// graphql-go's parser, Do, validator, Subscribe and variable coercion are
// never called on a client's text: a fragment cycle of 33 bytes ends the
// process in the first, and the others are quadratic or lenient.
//
// A [Schema], a [Document] and an [Operation] are safe for concurrent use.
package gqldoc
