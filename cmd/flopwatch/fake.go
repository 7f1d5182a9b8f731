package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/flopwatch/flopwatch/agent/gpu/nvmlstub"
)

// fakeFrom is where in the stub's cycle a start begins: shortly before a training.
const fakeFrom = 150 * time.Second

// fakeDriver puts the stub of NVIDIA's driver at library, with made-up GPUs beside it. Each
// start begins a new cycle, as a driver does that was loaded anew.
func fakeDriver(bin, library string, gpus int) (err error) {
	stub := filepath.Join(bin, "stub", nvmlstub.Library)
	if _, err = os.Stat(stub); err != nil {
		return fmt.Errorf("the stub of NVIDIA's driver is missing (`make build` builds it): %w", err)
	}
	if err = copyFile(stub, library); err != nil {
		return err
	}
	m, err := nvmlstub.Create(filepath.Join(filepath.Dir(library), nvmlstub.Shared), nvmlstub.Demo(nvmlstub.H100SXM, gpus, uint32(os.Getpid())))
	if err != nil {
		return fmt.Errorf("make up GPUs: %w", err)
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	return m.UseRealClock(fakeFrom)
}
