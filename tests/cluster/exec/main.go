// Plays what of a kubelet takes streams: runs commands in pods for the API server that asks (`kubectl exec`), and passes
// everything else on to the pod runner.
//
//	exec ADDRESS CERTIFICATE KEY PODS RUNNER
//
// PODS is a folder in which the pod runner keeps NAMESPACE_POD.json: how a command is run in the pod. RUNNER is where it
// answers by itself.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"
)

// The versions of the protocol that an API server speaks with a kubelet.
var protocols = []string{"v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"}

// Place is how a command is run in a pod.
type Place struct {
	Prefix []string `json:"prefix"`
	Env    []string `json:"env"`
}

// Pods is the folder of places.
type Pods string

func (pods Pods) ExecInContainer(ctx context.Context, _, pod, _ string, command []string, in io.Reader, out, errors io.WriteCloser,
	_ bool, _ <-chan remotecommand.TerminalSize, _ time.Duration) error {
	text, err := os.ReadFile(filepath.Join(string(pods), filepath.Base(pod)+".json"))
	if err != nil {
		return err
	}
	var place Place
	if err := json.Unmarshal(text, &place); err != nil {
		return err
	}
	line := append(place.Prefix, command...)
	process := exec.CommandContext(ctx, line[0], line[1:]...)
	process.Env, process.Stdin = place.Env, in
	// An interface that holds nothing is not nothing.
	if out != nil {
		process.Stdout = out
	}
	if errors != nil {
		process.Stderr = errors
	}
	return ended(process.Run())
}

// A program that ends with a code is told so; the API server passes it on.
func ended(err error) error {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return utilexec.CodeExitError{Err: err, Code: exit.ExitCode()}
	}
	return err
}

func main() {
	if len(os.Args) != 6 {
		log.Fatal("exec ADDRESS CERTIFICATE KEY PODS RUNNER")
	}
	address, certificate, key, pods, runner := os.Args[1], os.Args[2], os.Args[3], Pods(os.Args[4]), os.Args[5]
	target, err := url.Parse(runner)
	if err != nil {
		log.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("/", httputil.NewSingleHostReverseProxy(target))
	mux.HandleFunc("/exec/{namespace}/{pod}/{container}", func(w http.ResponseWriter, r *http.Request) {
		options, err := remotecommand.NewOptions(r)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		pod := r.PathValue("namespace") + "_" + r.PathValue("pod")
		if strings.ContainsAny(pod, "/") {
			http.Error(w, "no such pod", http.StatusNotFound)
			return
		}
		remotecommand.ServeExec(w, r, pods, "", pod, r.PathValue("container"), r.Form["command"], options,
			time.Hour, 30*time.Second, protocols)
	})
	log.Fatal(http.ListenAndServeTLS(address, certificate, key, mux))
}
