package bundle

import (
	"io"
	"io/fs"
)

// OpenParties opens the register of parties as it lies there, unpacked, for the room that
// seals it. The error is [fs.ErrNotExist] where the recording has none.
func (b *Bundle) OpenParties() (io.ReadCloser, error) {
	src, _, err := b.open(partiesFile)
	if err != nil {
		return nil, err
	}
	if src == nil {
		return nil, fs.ErrNotExist
	}
	return register{src}, nil
}

type register struct{ *source }

func (r register) Close() error {
	r.close()
	return nil
}
