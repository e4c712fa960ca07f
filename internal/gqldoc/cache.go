package gqldoc

import (
	"container/list"
	"sync"
)

// The bounds of a document cache. Long documents are those with the prompt
// inlined, and they never come back. The tree of a document weighs up to a
// hundred times its text, so the last bound is on the text of all.
const (
	cacheEntries  = 512
	cacheDocument = 8 << 10
	cacheBytes    = 256 << 10
)

// cache keeps the documents used last. It saves the time of Prepare and
// nothing depends on it: only documents that passed are kept, and they are
// read-only.
type cache struct {
	mu    sync.Mutex
	order *list.List // of *Document, the last used first
	byKey map[string]*list.Element
	bytes int
}

func newCache() *cache {
	return &cache{order: list.New(), byKey: map[string]*list.Element{}}
}

func (c *cache) get(query string) *Document {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.byKey[query]
	if e == nil {
		return nil
	}
	c.order.MoveToFront(e)
	return e.Value.(*Document)
}

func (c *cache) put(doc *Document) {
	if len(doc.text) > cacheDocument {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.byKey[doc.text] != nil {
		return
	}
	c.byKey[doc.text] = c.order.PushFront(doc)
	c.bytes += len(doc.text)
	for c.bytes > cacheBytes || c.order.Len() > cacheEntries {
		last := c.order.Remove(c.order.Back()).(*Document)
		delete(c.byKey, last.text)
		c.bytes -= len(last.text)
	}
}
