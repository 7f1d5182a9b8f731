// Package playback is the instrument that reads a recording: it hands the rows of a
// bundle to the recorders of the recorded hosts, in the order and with the availability
// that they had, so that everything behind a recorder works as on the hosts themselves.
//
// It owns: cutting the recording into chunks of arrival (a minute, live less), one batch a host
// and chunk; scaling values to the wire's units; telling starts from ends of processes
// and rentals, so that an end is sent when it became known. Chunks depend on the
// recording alone: chunk k of a host is always its batch k, which lets a killed replay
// go on where it stopped. On another clock (PlayAt) every instant moves by the same shift and
// each chunk waits for its time; batches stay what they are as long as shift and chunk do.
//
// It must not know NATS, files other than the bundle's, or what is made of the rows.
package playback
