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
// GPM has one owner for each GPU, its worker: samples are 100 ms apart at least, and readings
// follow on each other, so that no time is left out or counted twice, whoever asked for them. A
// driver that does not know the counters since boot (metrics 248 to 260) is asked without them
// for ten minutes, and the same samples are read again at once: nothing else is lost. Counters
// are told as they are; whether they are sums or means over the SMs, no header says.
//
// Budget: at most 12 calls a GPU in any second of the requests' clock, from the first on, as
// the stub's counters show. A pass takes 9. What may wait takes what is left, some calls a
// request: lists of processes (up to 4, or 2 for each MIG device), vitals (7), MIG devices, and
// the description (20 parts), which is whole after some 14 seconds. A tick in a time of bursts
// reads fields and GPM (3) and of the rest what leaves room. Requests for more are cut,
// the pass from its end, and a fault with frame.CodeBudget says so. Not counted: room for samples,
// and waiting for events.
//
// A second is 910 ms here, as ticks come a little early or late, and two passes are more than twelve
// calls: a budget of every second that slides would drop the whole pass of a tick that is a
// millisecond early, or make each wait for the latest of those before. What is held is so: 12
// calls in any 910 ms of the requests' clock; 12 a second in the mean, ticks being a second apart in
// the mean; and in a second of any clock that begins anywhere at most the calls of two ticks, 24.
// The last holds too where calls take long: an answer of more than half a second counts from its end.
//
// GPU instances (MIG) cost two calls each, and take turns: seven come round in three seconds, in
// five while something rare is read. Where lists of processes cannot be, as those of the first
// drivers of release 535, whose entries are longer than the binding's, they are not believed.
//
// Goroutines: a reader of requests, one worker a GPU with at most one call into the library,
// one for calls that concern no single GPU, and a listener that alone uses the set of events. It
// calls a GPU only to put it into the set, while its worker rests, and the worker pays for that
// call. A storm of events is one frame at once and one a second with their number, of at most 64
// kinds. What it hears, of which GPUs, and what keeps it from that, the loop of requests tells, since
// a listener may hang; a set that fails is made anew after 1 s, 2 s, ..., a minute. They end with Serve, or, hung in the driver, with the process; a GPU that hangs delays
// no other. While the process lives it holds the driver open: a driver can be replaced only
// once it has ended.
//
// Buffers: a frame's worth for each GPU, and 40 KiB that the binding copies for each GPM call.
package nvml
