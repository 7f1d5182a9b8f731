package embedded

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"syscall"
	"time"
)

// mostReserve bounds what is kept free of a disk.
const mostReserve = 256 << 20

// space is how much of the disk of dir there is and is free.
func space(dir string) (total, free uint64, err error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return 0, 0, fmt.Errorf("look at the disk of %s: %w", dir, err)
	}
	return st.Blocks * uint64(st.Bsize), st.Bavail * uint64(st.Bsize), nil
}

// reserve is how much of a disk is kept free: an eighth, and no more than mostReserve.
func reserve(total uint64) uint64 { return min(total/8, mostReserve) }

// engineReserve is what the engine itself keeps free of dir's disk, from merges and drops: whoever drops a partition writes an empty one in its place,
// and must be able to where inserts are refused.
func engineReserve(dir string) (uint64, error) {
	total, _, err := space(dir)
	return reserve(total) / 8, err
}

// haveRoom refuses an insert on a disk that has less than the reserve left, and other statements that write where half of that is left: they would likely have
// to wait for room in their midst (see hookDisk), and with them whoever waits for them. What makes room may always run.
func (f *front) haveRoom(text string) error {
	ts := tokens(text)
	if words(ts, "DROP") || words(ts, "TRUNCATE") || words(ts, "ALTER", "TABLE") && drops(ts) {
		return nil
	}
	total, free, err := space(f.data.root)
	if err != nil {
		return err
	}
	least := reserve(total)
	if !slices.ContainsFunc(ts, func(t token) bool { return t.is("INSERT") }) {
		least /= 2
	}
	if free < least {
		return refuse(codeNotEnoughSpace, "NOT_ENOUGH_SPACE", "The engine's disk has %d MiB left, and below %d this is refused: make room; DROP, TRUNCATE and ALTER TABLE ... DROP PARTITION are taken", free>>20, least>>20)
	}
	return nil
}

// drops says whether a statement drops partitions or parts.
func drops(ts []token) bool {
	for i := range ts {
		if words(ts[i:], "DROP", "PARTITION") || words(ts[i:], "DROP", "PART") {
			return true
		}
	}
	return false
}

// watchDisk says when writes of the engine wait for room, and when that is over, until ctx ends.
func watchDisk(ctx context.Context, lg *slog.Logger, dir string) {
	const every, quiet = 500 * time.Millisecond, 5
	tick := time.NewTicker(every)
	defer tick.Stop()
	said, still, last := false, 0, uint64(0)
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := diskStalls.Load()
		if now == last {
			if still++; said && still > quiet {
				said = false
				lg.LogAttrs(ctx, slog.LevelInfo, "the disk has room again, nothing waits", slog.String("data", dir))
			}
			continue
		}
		if last, still = now, 0; !said {
			said = true
			lg.LogAttrs(ctx, slog.LevelWarn, "the disk is full: what the engine writes waits until there is room", slog.String("data", dir))
		}
	}
}

// note writes a small file, unless it says so already: a start finds its way on a full disk.
func note(path string, text []byte) error {
	if was, err := os.ReadFile(path); err == nil && bytes.Equal(was, text) {
		return nil
	} else if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return os.WriteFile(path, text, 0o600)
}
