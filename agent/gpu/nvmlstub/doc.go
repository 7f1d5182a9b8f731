// Package nvmlstub is fake GPUs: a driver library of our own, libnvidia-ml.so.1 in C, and the
// Go side that tells it what to show.
//
// The library is compiled with gcc against NVIDIA's nvml.h, which lies in the module cache
// and of which nothing is copied. It has every function of that header: those an agent reads
// are played, all others are there and return NOT_SUPPORTED. It finds its shared memory, the file
// nvml.shm, beside itself, or where FLOPWATCH_NVMLSTUB says.
//
// The memory holds GPUs, their MIG devices, their load as a list of segments, their health,
// processes, events, faults and counts of calls, and of those under way at once; lib/layout.h and
// layout.go are its two descriptions. A load is a function of time and nothing has to run beside
// it: energy, bytes, cycles since boot and the time for which clocks were held down are closed
// integrals of that function, GPM metrics its exact averages between two samples, and Truth is the
// same arithmetic in Go. Health is what it was set to. The clock is the machine's, or one that a
// test moves (SetNow), so that an hour plays in as long as its readings take.
//
// Options build the likes of older drivers, which lack symbols, fields and metrics. Models differ
// in what they have: what a call returns where there is nothing is NOT_SUPPORTED, as the header says.
//
//	lib, err := nvmlstub.Build(ctx, dir, nvmlstub.Options{})
//	m, err := nvmlstub.Create(filepath.Join(dir, nvmlstub.Shared), nvmlstub.H100x8Training(0, time.Hour))
//	// give lib to flopwatch-nvml; then, as the test goes on:
//	err = m.SetNow(10 * time.Minute)
//	err = m.SetFaults(nvmlstub.Fault{Function: "nvmlDeviceGetTemperature", GPUs: []int{3}, Delay: nvmlstub.Hang})
//	err = m.SetInstances(1, nvmlstub.Instances("3g.40gb", "1g.10gb")...) // cut into MIG devices
//	h := m.Health(2); h.ECCCorrectedVolatile++; err = m.SetHealth(2, h)
//	err = m.Push(nvmlstub.Event{GPU: 2, Data: 94}) // an Xid, now
//	calls := m.Snapshot().Since(before).Total(3)
//	most := m.MostInFlight(3) // calls at once on a GPU
//	truth := m.Truth(3, 0, 10*time.Minute)
//
// What it proves: that structs, versions and units are marshalled as the header says, that
// errors, missing symbols, lost GPUs, hangs and resets are survived, how many calls are made,
// and that what is read adds up to what was played. What it does not prove: how long a real
// driver takes and whom it holds up meanwhile, which call works on which GPU, driver or
// confidential mode, how a real sensor averages, and what real loads look like; the figures
// of the models are those of data sheets, their loads are made up. And since anyone with root can
// do what this package does, it shows that a reading in band is a claim and no proof.
//
// It must not know the agent, the wire or go-nvml. It owns no goroutine; a Memory maps one
// file of 0.8 MB. Changes are seen whole or not at all: a sequence number is odd
// while one is written, and the library works on a checked copy. A writer that dies in
// between leaves a memory that the library answers with DRIVER_NOT_LOADED, as it does with one
// that is missing, truncated or foreign, until the next change. A hanging call ends when its fault
// is taken away. The library never unmaps a memory, since a call that hangs may hold it.
package nvmlstub
