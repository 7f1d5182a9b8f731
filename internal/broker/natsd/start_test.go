package natsd

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestPortTaken: a server that cannot listen says so at once, and where; and lets go of its directory.
func TestPortTaken(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = taken.Close() })
	dir := t.TempDir()
	path := filepath.Join(dir, "nats.conf")
	if err = os.WriteFile(path, fmt.Appendf(nil, "listen: %q\njetstream { store_dir: %q }\n", taken.Addr(), filepath.Join(dir, "file")), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time the directory is there, and nobody's
		_, err = StartFile(t.Context(), path, nil)
		check(t, err, taken.Addr().String())
		_, err = StartServer(t.Context(), ServerConfig{Dir: filepath.Join(dir, "server"), Port: taken.Addr().(*net.TCPAddr).Port})
		check(t, err, taken.Addr().String())
	}
}

func check(t *testing.T, err error, addr string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), addr) || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("got %v, want that %s is in use", err, addr)
	}
}
