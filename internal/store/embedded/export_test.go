package embedded

import (
	"os"
	"runtime"
	"unsafe"

	"github.com/ebitengine/purego"
)

// Hooked calls the hooks of write (0), pwrite (1) and fsync (3) as the engine does, after it has led lib through them.
func Hooked(lib string, hook int, f *os.File, b []byte) (int, error) {
	if _, err := openLibrary(lib); err != nil {
		return 0, err
	}
	n, _, _ := purego.SyscallN(diskHooks[hook], f.Fd(), uintptr(unsafe.Pointer(bytesAddr(b))), uintptr(len(b)), 1)
	runtime.KeepAlive(b)
	return int(n), nil
}

// DiskStalls says how often a write found no room; DiskHurry lets the next end the process.
func DiskStalls() uint64 { return diskStalls.Load() }

// DiskHurry is what a stop does.
func DiskHurry() { diskHurry.Store(1) }

// Engine is an engine in the test's own process.
type Engine struct {
	Version string
	s       *session
}

// OpenEngine loads the library at lib and starts it on dir.
func OpenEngine(lib, dir string) (*Engine, error) {
	d := layout{dir}
	if err := d.create(); err != nil {
		return nil, err
	}
	config, err := d.writeConfig(defaultLimits(), &roleSet{}, true)
	if err != nil {
		return nil, err
	}
	l, err := openLibrary(lib)
	if err != nil {
		return nil, err
	}
	s, err := l.open(d.args(config))
	if err == nil {
		err = s.run("SET ROLE " + adminRole)
	}
	return &Engine{l.version, s}, err
}

// Select runs a query with one String parameter x.
func (e *Engine) Select(query, x string) (string, error) {
	r, err := e.s.exec(query, "TSV", []param{{"x", escapeParam(x)}})
	defer r.destroy()
	return string(r.data()), err
}

// Class gives the engine's class of a statement.
func (e *Engine) Class(query string) (int, error) {
	a, err := e.s.classify(query)
	return int(a.class), err
}

// Close ends the connection.
func (e *Engine) Close() { e.s.close() }

// MaxQueue and DefaultPatience are what EMBEDDED.md says.
const MaxQueue = maxQueue

// DefaultPatience is how long clients wait and are waited for.
func DefaultPatience() Patience { return Patience{}.orDefault() }

// CheckCPU is the judgement of a processor.
var CheckCPU = checkCPU
