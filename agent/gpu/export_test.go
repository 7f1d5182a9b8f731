package gpu

import "os"

// Immortal makes children that cannot be killed, until the returned function is called.
func Immortal() (restore func()) {
	was := killProcess
	killProcess = func(*os.Process) error { return nil }
	return func() { killProcess = was }
}

// KillAbandoned ends the children that were left behind.
func KillAbandoned() {
	strays.mu.Lock()
	defer strays.mu.Unlock()
	for _, c := range strays.list {
		_ = c.cmd.Process.Kill()
	}
}
