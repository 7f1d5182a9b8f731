// Package nvml is what runs in flopwatch-nvml: it reads GPUs through NVIDIA's management
// library and answers what the agent asks. It is the only package that imports go-nvml.
//
// It must not know the wire contract, nor what becomes of a reading. It decides nothing: how
// often a GPU is read, and which one is left alone, is the agent's to say. It changes no
// setting of a GPU.
//
// The library is not trusted to be whole. Every function is looked up before it is called,
// as a call to a missing one ends the process. A function that a GPU does not support is
// remembered and tried again every ten minutes of the requests' clock. Values that cannot be
// are absent, and strings are made fit for a frame.
//
// Goroutines: a reader of requests, one worker a GPU with at most one call into the library,
// and one for calls that concern no single GPU. They end with Serve, or, hung in the
// driver, with the process; a GPU that hangs delays no other. While the process lives it
// holds the driver open: a driver can be replaced only once it has ended.
//
// Budget: at most 12 calls a GPU and second, all included: 9 a pass, up to 4 a look at the
// processes, about a dozen a description.
package nvml
