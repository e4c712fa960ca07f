package proxytest

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"strings"
)

// An Event is one server-sent event.
type Event struct {
	// Name is the value of its event field; empty without one, where a browser
	// would say "message".
	Name string
	// Data is the lines of its data fields, joined by \n.
	Data string
	// ID is the last id field seen, of this event or an earlier one.
	ID string
}

// An EventReader reads server-sent events as the WHATWG HTML standard says,
// section 9.2.6: lines end with CR, LF or CRLF, one byte order mark at the start
// and all comments are skipped, an event without data is none, and an event
// that no blank line ends before the end of the stream is dropped. Bytes that
// are not UTF-8 stay as they are, retry fields are ignored, and no line is too
// long. It is not safe for concurrent use.
type EventReader struct {
	r       *bufio.Reader
	line    []byte
	started bool // the first line was read
	afterCR bool // a LF that comes next belongs to the line before
	id      string
	err     error
}

// NewEventReader returns a reader of the events in r. It may read ahead.
func NewEventReader(r io.Reader) *EventReader {
	return &EventReader{r: bufio.NewReader(r)}
}

// Next returns the next event as soon as its blank line has come. The error is
// io.EOF at a clean end, that of the reader, such as io.ErrUnexpectedEOF,
// otherwise, and stays.
func (e *EventReader) Next() (Event, error) {
	var name string
	var data strings.Builder
	for {
		line, err := e.readLine()
		if err != nil {
			return Event{}, err
		}
		if line == "" {
			if data.Len() > 0 {
				return Event{Name: name, Data: strings.TrimSuffix(data.String(), "\n"), ID: e.id}, nil
			}
			name = ""
			continue
		}
		field, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch field {
		case "event":
			name = value
		case "data":
			data.WriteString(value)
			data.WriteByte('\n')
		case "id":
			if !strings.Contains(value, "\x00") {
				e.id = value
			}
		}
	}
}

// ReadEvents reads all events of r. The error is nil at a clean end, and
// otherwise that of the reader, such as io.ErrUnexpectedEOF; the events before
// it are returned all the same.
func ReadEvents(r io.Reader) ([]Event, error) {
	reader := NewEventReader(r)
	var events []Event
	for {
		event, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return events, nil
		}
		if err != nil {
			return events, err
		}
		events = append(events, event)
	}
}

// readLine returns the next line without its end. A line that the end of the
// stream leaves unfinished is dropped.
func (e *EventReader) readLine() (string, error) {
	if e.err != nil {
		return "", e.err
	}
	e.line = e.line[:0]
	for {
		if _, err := e.r.Peek(1); err != nil {
			e.err = err
			return "", err
		}
		buffered, _ := e.r.Peek(e.r.Buffered())
		if e.afterCR {
			e.afterCR = false
			if buffered[0] == '\n' {
				_, _ = e.r.Discard(1)
				continue
			}
		}
		i := bytes.IndexAny(buffered, "\r\n")
		if i < 0 {
			e.line = append(e.line, buffered...)
			_, _ = e.r.Discard(len(buffered))
			continue
		}
		e.line = append(e.line, buffered[:i]...)
		e.afterCR = buffered[i] == '\r'
		_, _ = e.r.Discard(i + 1)
		line := string(e.line)
		if !e.started {
			e.started = true
			line = strings.TrimPrefix(line, "\ufeff")
		}
		return line, nil
	}
}
