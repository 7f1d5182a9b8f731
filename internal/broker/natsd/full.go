package natsd

import (
	"errors"
	"strings"
	"sync"
	"syscall"
	"time"
)

// ErrWasFull says that the disk had no room, and has some again. nats-server refuses every message
// of a stream whose file could once not be written, until it is started anew.
var ErrWasFull = errors.New("the disk was full, and streams that met it refuse messages until the server starts again")

// Room that has to be there, in two looks one after the other, before a start is worth it.
const (
	roomAgain = 4 << 20
	roomLook  = time.Second
)

// fullDisk watches what the server says for a disk without room, and then the disk.
type fullDisk struct {
	dir  string
	once sync.Once
	over chan error // gets ErrWasFull, once
	quit chan struct{}
	ends sync.Once
	done sync.WaitGroup
}

func newFullDisk(dir string) *fullDisk {
	return &fullDisk{dir: dir, over: make(chan error, 1), quit: make(chan struct{})}
}

// heard looks at an error of the server.
func (f *fullDisk) heard(text string) {
	if strings.Contains(text, syscall.ENOSPC.Error()) || strings.Contains(text, syscall.EDQUOT.Error()) {
		f.once.Do(func() { f.done.Go(f.wait) })
	}
}

// wait ends with stop, or once there is room.
func (f *fullDisk) wait() {
	tick := time.NewTicker(roomLook)
	defer tick.Stop()
	for seen := 0; seen < 2; {
		select {
		case <-f.quit:
			return
		case <-tick.C:
		}
		var st syscall.Statfs_t
		if err := syscall.Statfs(f.dir, &st); err != nil || int64(st.Bavail)*st.Bsize < roomAgain {
			seen = 0
			continue
		}
		seen++
	}
	f.over <- ErrWasFull
}

func (f *fullDisk) stop() {
	f.once.Do(func() {}) // nothing begins any more
	f.ends.Do(func() { close(f.quit) })
	f.done.Wait()
}

// WasFull gets ErrWasFull when the disk of the streams had no room and has some again: the server
// is to be stopped and started then. It hears of it by the log, and not without one.
func (s *Server) WasFull() <-chan error { return s.full.over }
