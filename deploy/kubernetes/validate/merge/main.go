// Command merge prints a manifest with a patch applied as `kubectl patch` does it, so that
// what the two make can be checked without a cluster:
//
//	merge daemonset.yaml kernel.yaml
//
// Objects of the manifest that the patch does not name stay as they are. A field of the patch
// that Kubernetes does not know is an error.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"sigs.k8s.io/yaml"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "merge:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 2 {
		return errors.New("usage: merge MANIFEST PATCH")
	}
	manifest, err := os.ReadFile(args[0])
	if err != nil {
		return fmt.Errorf("read manifest: %w", err)
	}
	text, err := os.ReadFile(args[1])
	if err != nil {
		return fmt.Errorf("read patch: %w", err)
	}
	var typed appsv1.DaemonSet
	if err = yaml.UnmarshalStrict(text, &typed); err != nil {
		return fmt.Errorf("patch %s: %w", args[1], err)
	}
	patch, err := yaml.YAMLToJSONStrict(text)
	if err != nil {
		return fmt.Errorf("patch %s: %w", args[1], err)
	}
	patched := 0
	for i, doc := range bytes.Split(manifest, []byte("\n---\n")) {
		var is appsv1.DaemonSet
		if err = yaml.Unmarshal(doc, &is); err != nil {
			return fmt.Errorf("%s, object %d: %w", args[0], i+1, err)
		}
		if is.APIVersion == typed.APIVersion && is.Kind == typed.Kind && is.Namespace == typed.Namespace && is.Name == typed.Name {
			if doc, err = merge(doc, patch); err != nil {
				return fmt.Errorf("%s, object %d: %w", args[0], i+1, err)
			}
			patched++
		}
		if _, err = fmt.Printf("---\n%s\n", bytes.TrimSpace(doc)); err != nil {
			return err // it names the file
		}
	}
	if patched != 1 {
		return fmt.Errorf("%s: %d objects are %s %s/%s, which %s is for", args[0], patched, typed.Kind, typed.Namespace, typed.Name, args[1])
	}
	return nil
}

func merge(doc, patch []byte) ([]byte, error) {
	original, err := yaml.YAMLToJSONStrict(doc)
	if err != nil {
		return nil, err
	}
	merged, err := strategicpatch.StrategicMergePatch(original, patch, appsv1.DaemonSet{})
	if err != nil {
		return nil, fmt.Errorf("merge: %w", err)
	}
	return yaml.JSONToYAML(merged)
}
