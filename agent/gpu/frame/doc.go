// Package frame is what flopwatch-agent and its child flopwatch-nvml say to each other over
// two pipes: requests down, devices, readings, processes and faults up.
//
// A frame is
//
//	length  uint32, little endian: bytes of the body, at most MaxBody
//	type    uint8
//	crc     uint32, little endian: CRC-32C of type and body
//	body    varints and counted strings, see the Append functions
//
// The agent speaks first (Hello), the child answers (Welcome) when the library is loaded or
// has refused. From then on the agent asks and the child answers. Every GPU that a Sample
// names, in whichever mask, is answered by a Done with the same Seq, behind what there was to
// say: at most one Reading of the GPU, Readings of its instances (MIG), a Device if it
// changed, and Faults. A Describe is a Sample that brings the Device anew. The agent does not
// name a GPU again before its Done.
//
// Processes, Health, Instances and what is new of a Device may take more calls than a second
// has room for: they come with the answer to a later request, with that one's Seq. A Burst
// brings a Reading with few values. Events come at any time, if a request has asked for them, and
// a Listening when what is heard of them has changed.
//
// It must not know NVML, nor the wire contract. Decoders check what they read before they
// use it: lengths, ranges, UTF-8, no bytes left over. What they fill, strings and lists
// aside, borrows nothing. It starts no goroutine. On a crash of one side the other reads a
// frame that ends early.
package frame
