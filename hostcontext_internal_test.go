package proxy

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestHostContextEndsAtItsDeadline(t *testing.T) {
	t.Parallel()
	for name, look := range map[string]func(context.Context) error{
		"asked":   func(ctx context.Context) error { time.Sleep(2 * time.Second); return ctx.Err() },
		"waiting": func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
		"children": func(ctx context.Context) error {
			ctx, stop := context.WithCancel(ctx)
			defer stop()
			<-ctx.Done()
			return ctx.Err()
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			ctx := newHostContext(t.Context(), time.Second)
			defer ctx.close()
			if at, ok := ctx.Deadline(); !ok || time.Until(at) != time.Second || ctx.Err() != nil {
				t.Errorf("%s: deadline %v, %v", name, at, ctx.Err())
			}
			if err := look(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
}

func TestHostContextEndsWithItsRequestAndWhenItIsClosed(t *testing.T) {
	t.Parallel()
	parent, leave := context.WithTimeout(t.Context(), time.Minute)
	waited, asked, closed := newHostContext(parent, time.Hour), newHostContext(parent, time.Hour), newHostContext(parent, time.Hour)
	if at, _ := waited.Deadline(); time.Until(at) > time.Minute {
		t.Errorf("the deadline %v is behind the request's", at)
	}
	done := waited.Done()
	closed.close()
	<-closed.Done()
	if err := closed.Err(); !errors.Is(err, context.Canceled) {
		t.Errorf("closed: %v", err)
	}
	leave()
	<-done
	for _, ctx := range []*hostContext{waited, asked} {
		if err := ctx.Err(); !errors.Is(err, context.Canceled) {
			t.Errorf("the request has ended: %v", err)
		}
		ctx.close()
		ctx.close()
	}
}
