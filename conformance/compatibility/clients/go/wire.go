package main

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"sync"
)

const initialEventsEnd = "k8s.io/initial-events-end"

// exchange is a request, and what its answer's head said.
type exchange struct {
	method, path, query, sent, accept, received string
	code                                        int
	// Of a watch: whether its initial events were ended by their bookmark.
	bookmarked bool
	body       *watched
}

func (e *exchange) isStreamingList() bool { return strings.Contains(e.query, "sendInitialEvents=true") }
func (e *exchange) isWatch() bool         { return strings.Contains(e.query, "watch=") }

// wire records what clients send and get, and can cut their watches.
type wire struct {
	mu        sync.Mutex
	exchanges []*exchange
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func (w *wire) wrap(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		response, err := next.RoundTrip(r)
		if err != nil {
			return response, err
		}
		e := &exchange{
			method: r.Method, path: r.URL.Path, query: r.URL.RawQuery, sent: r.Header.Get("Content-Type"),
			accept: r.Header.Get("Accept"), received: response.Header.Get("Content-Type"), code: response.StatusCode,
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		if e.isWatch() {
			e.body = &watched{ReadCloser: response.Body, wire: w, exchange: e}
			response.Body = e.body
		}
		w.exchanges = append(w.exchanges, e)
		return response, nil
	})
}

// since gives what came after a number of exchanges, and how many there are now.
func (w *wire) since(n int) ([]exchange, int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []exchange
	for _, e := range w.exchanges[n:] {
		out = append(out, *e)
	}
	return out, len(w.exchanges)
}

// cut ends every watch that is open, as a network does, and says how many there were.
func (w *wire) cut() int {
	w.mu.Lock()
	var open []*watched
	for _, e := range w.exchanges {
		if e.body != nil && !e.body.ended {
			e.body.ended, e.body.cut = true, true
			open = append(open, e.body)
		}
	}
	w.mu.Unlock()
	for _, body := range open {
		body.ReadCloser.Close()
	}
	return len(open)
}

// watched is the body of a watch; it looks for the bookmark while it is read.
type watched struct {
	io.ReadCloser
	wire     *wire
	exchange *exchange
	ended    bool
	cut      bool
	tail     []byte
}

func (b *watched) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.wire.mu.Lock()
	defer b.wire.mu.Unlock()
	b.tail = append(b.tail, p[:n]...)
	if bytes.Contains(b.tail, []byte(initialEventsEnd)) {
		b.exchange.bookmarked = true
	}
	if keep := len(initialEventsEnd); len(b.tail) > keep {
		b.tail = append([]byte(nil), b.tail[len(b.tail)-keep:]...)
	}
	if err != nil {
		b.ended = true
		if b.cut {
			err = io.EOF
		}
	}
	return n, err
}

func (b *watched) Close() error {
	b.wire.mu.Lock()
	b.ended = true
	b.wire.mu.Unlock()
	return b.ReadCloser.Close()
}
