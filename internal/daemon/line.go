package daemon

import (
	"errors"
	"flag"
	"fmt"
	"io"
)

// Line is what a daemon was told on its command line.
type Line struct {
	Config string // path of the configuration
	Check  bool   // read it, print its digest, and end
}

// ParseLine reads the flags that all daemons have: -config, -check, -print-config, which prints
// defaultFile, and -version. more, if not nil, adds others, and usage says how to call it. done
// says that nothing is left to do: help was asked for, or something was printed.
func ParseLine(name, usage, defaultFile string, args []string, stdout, stderr io.Writer, more func(*flag.FlagSet)) (l Line, done bool, err error) {
	flags := flag.NewFlagSet(name, flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&l.Config, "config", "", "configuration `file` (TOML)")
	flags.BoolVar(&l.Check, "check", false, "check the configuration, print its digest, and exit")
	printed := flags.Bool("print-config", false, "print a configuration with every key, its default and meaning, and exit")
	version := flags.Bool("version", false, "print the build and exit")
	if more != nil {
		more(flags)
	}
	err = flags.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return l, true, nil
	case err != nil:
		return l, false, UsageError{Err: err}
	case *version:
		return l, true, Print(stdout, ReadBuild().String()+"\n")
	case *printed:
		return l, true, Print(stdout, defaultFile)
	case l.Config == "" || flags.NArg() > 0:
		return l, false, UsageError{Err: errors.New("usage: " + name + " " + usage)}
	}
	return l, false, nil
}

// Print writes a text for whoever started the command.
func Print(w io.Writer, text string) error {
	if _, err := io.WriteString(w, text); err != nil {
		return fmt.Errorf("print: %w", err)
	}
	return nil
}
