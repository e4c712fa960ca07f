package gqldoc_test

import (
	"os"
	"testing"

	"github.com/openai-proxy-go/proxy/internal/leaktest"
)

func TestMain(m *testing.M) { os.Exit(leaktest.Run(m)) }
