package gqldoc

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/vektah/gqlparser/v2/ast"
	"github.com/vektah/gqlparser/v2/gqlerror"
	"github.com/vektah/gqlparser/v2/lexer"
	"github.com/vektah/gqlparser/v2/parser"
	"github.com/vektah/gqlparser/v2/validator"
)

// This file and validate.go are the only ones that call gqlparser's functions.
// It breaks its API in patch releases, and the host's go.mod may choose the
// version.

// loadSDL loads the schema that documents are held against.
func loadSDL(text string) (*ast.Schema, error) {
	sdl, err := validator.LoadSchema(validator.Prelude, &ast.Source{Name: "schema.graphql", Input: text})
	if err != nil {
		return nil, err
	}
	if sdl.Query == nil {
		return nil, errors.New("schema.graphql: no Query type")
	}
	// gqlparser knows @defer, graphql-go would ignore it.
	delete(sdl.Directives, "defer")
	return sdl, nil
}

// parse reads the text of a document. Everything that makes gqlparser's parser
// slow or its syntax tree large is refused by scan before.
func (s *Schema) parse(query string) (*ast.QueryDocument, *Error) {
	if len(query) > s.limits.Bytes {
		e := newError(KindSize, CodeSize, fmt.Sprintf("The document has more than %d bytes.", s.limits.Bytes))
		return nil, &e
	}
	if !utf8.ValidString(query) {
		e := newError(KindSyntax, CodeSyntax, "Syntax Error: the document is not valid UTF-8.")
		return nil, &e
	}
	// Source.Name stays empty, or gqlparser adds it to the extensions.
	source := &ast.Source{Input: query}
	if e := s.scan(source); e != nil {
		return nil, e
	}
	doc, err := parser.ParseQueryWithTokenLimit(source, s.limits.Tokens)
	if err != nil {
		return nil, s.parseError(err)
	}
	if len(doc.Operations)+len(doc.Fragments) == 0 {
		e := newError(KindSyntax, CodeSyntax, "Syntax Error: Unexpected <EOF>.")
		return nil, &e
	}
	return doc, nil
}

func (s *Schema) parseError(err error) *Error {
	kind, code := KindSyntax, CodeSyntax
	var g *gqlerror.Error
	if !errors.As(err, &g) {
		e := newError(kind, code, "Syntax Error: "+err.Error())
		return &e
	}
	// The limits have no type of their own. scan counts like the parser, so
	// this is for a gqlparser that counts differently.
	prefix := "Syntax Error: "
	switch {
	case strings.HasPrefix(g.Message, "exceeded token limit"):
		kind, code, prefix = KindSize, CodeSize, ""
	case strings.HasPrefix(g.Message, "exceeded maximum nesting depth"):
		kind, code, prefix = KindComplexity, CodeComplexity, ""
	}
	e := newError(kind, code, prefix+g.Message, locations(g)...)
	return &e
}

func locations(g *gqlerror.Error) []Location {
	at := make([]Location, len(g.Locations))
	for i, l := range g.Locations {
		at[i] = Location{l.Line, l.Column}
	}
	return at
}

func place(p *ast.Position) Location {
	if p == nil {
		return Location{1, 1}
	}
	return Location{p.Line, p.Column}
}

// scanner is the state of one pass over the tokens.
type scanner struct {
	limits  Limits
	input   string
	tokens  int
	nesting int
	last    lexer.Token
	// Token positions count runes. cursor follows them through the bytes.
	cursorRunes, cursorBytes int
}

// scan passes over the tokens once, before the parser does. It bounds their
// number, length and nesting, and sees three things that the parser lets
// through or loses: a number that runs into a name, a lone surrogate, and the
// lexer's own message.
func (s *Schema) scan(source *ast.Source) *Error {
	lex := lexer.New(source)
	sc := scanner{limits: s.limits, input: source.Input}
	for {
		token, err := lex.ReadToken()
		if err != nil {
			return s.parseError(err)
		}
		if token.Kind == lexer.EOF {
			return nil
		}
		if e := sc.token(token); e != nil {
			return e
		}
		sc.last = token
	}
}

func (sc *scanner) token(token lexer.Token) *Error {
	sc.tokens++
	at := place(&token.Pos)
	refuse := func(kind Kind, code, message string) *Error {
		e := newError(kind, code, message, at)
		return &e
	}
	if sc.tokens > sc.limits.Tokens {
		return refuse(KindSize, CodeSize, fmt.Sprintf("The document has more than %d tokens.", sc.limits.Tokens))
	}
	switch token.Kind {
	case lexer.ParenL, lexer.BracketL, lexer.BraceL:
		sc.nesting++
		// One pair of parentheses may lie between the fields and a value.
		if sc.nesting > sc.limits.Depth+1+maxValueNesting {
			return refuse(KindComplexity, CodeComplexity, "The document is nested too deeply.")
		}
	case lexer.ParenR, lexer.BracketR, lexer.BraceR:
		sc.nesting--
	case lexer.Name:
		if len(token.Value) > maxName {
			return refuse(KindComplexity, CodeComplexity, fmt.Sprintf("A name has more than %d characters.", maxName))
		}
	case lexer.Int, lexer.Float:
		if len(token.Value) > maxNumber {
			return refuse(KindComplexity, CodeComplexity, fmt.Sprintf("A number has more than %d characters.", maxNumber))
		}
	case lexer.String, lexer.BlockString:
		if token.Kind == lexer.String && strings.ContainsRune(token.Value, utf8.RuneError) && sc.loneSurrogate(token) {
			return refuse(KindSyntax, CodeSyntax, "Syntax Error: Invalid Unicode escape sequence: a surrogate without its pair.")
		}
	}
	if number := sc.last.Kind == lexer.Int || sc.last.Kind == lexer.Float; number &&
		token.Kind == lexer.Name && sc.last.Pos.End == token.Pos.Start {
		return refuse(KindSyntax, CodeSyntax, "Syntax Error: Invalid number, expected digit but got: "+
			strconv.Quote(token.Value[:1])+".")
	}
	return nil
}

// loneSurrogate looks for an unpaired \uD8xx in the source of a string token,
// which gqlparser turns into U+FFFD without a word.
func (sc *scanner) loneSurrogate(token lexer.Token) bool {
	text := sc.source(token)
	for i := 0; i+1 < len(text); i++ {
		if text[i] != '\\' {
			continue
		}
		first, ok := escape(text[i:])
		i++ // over the escaped character, so that \\u is not read as \u
		if !ok || first < 0xD800 || first > 0xDFFF {
			continue
		}
		second, ok := escape(text[min(i+5, len(text)):])
		if first > 0xDBFF || !ok || second < 0xDC00 || second > 0xDFFF {
			return true
		}
		i += 10
	}
	return false
}

// escape reads the number of a leading \uXXXX.
func escape(text string) (uint64, bool) {
	if len(text) < 6 || text[:2] != `\u` {
		return 0, false
	}
	n, err := strconv.ParseUint(text[2:6], 16, 32)
	return n, err == nil
}

// source gives the text of a token. It only moves forward, so that all calls
// of one scan cost one pass over the document.
func (sc *scanner) source(token lexer.Token) string {
	forward := func(runes int) int {
		for sc.cursorRunes < runes && sc.cursorBytes < len(sc.input) {
			_, size := utf8.DecodeRuneInString(sc.input[sc.cursorBytes:])
			sc.cursorBytes += size
			sc.cursorRunes++
		}
		return sc.cursorBytes
	}
	start := forward(token.Pos.Start)
	return sc.input[start:forward(token.Pos.End)]
}
