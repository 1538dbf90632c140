// load asks at steady rates until its standard input is closed, then prints what came of it as JSON:
//
//	load -http 10.99.250.1:80 -host web.example -steady steady.example -tcp 10.99.250.1:7000 -rate 1000
//
// A tenth of the rate each goes into messages on WebSockets and into TCP connections, the rest into requests of HTTP/1.1 and
// HTTP/2. Nothing is tried twice here: a PUT whose body cannot be read again is not repeated by Go's client.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/websocket"
)

const (
	sockets  = 10 // WebSockets to each host
	inFlight = 64 // requests of a kind at most; what would be more is waited for, and the rate is then less
	limit    = 10 * time.Second
)

// tally is what came of one kind of load.
type tally struct {
	Good, Bad, Cut atomic.Uint64
	lock           sync.Mutex
	errors         []string
}

func (t *tally) bad(err error) {
	t.Bad.Add(1)
	t.lock.Lock()
	defer t.lock.Unlock()
	if len(t.errors) < 5 {
		t.errors = append(t.errors, time.Now().Format("05.000 ")+err.Error())
	}
}

func (t *tally) MarshalJSON() ([]byte, error) {
	return json.Marshal(map[string]any{"good": t.Good.Load(), "bad": t.Bad.Load(), "cut": t.Cut.Load(), "errors": t.errors})
}

// each calls work rate times a second, as many at once as there have to be.
func each(ctx context.Context, group *sync.WaitGroup, rate int, work func()) {
	places := make(chan struct{}, inFlight)
	group.Add(1)
	go func() {
		defer group.Done()
		ticker := time.NewTicker(time.Second / time.Duration(rate))
		defer ticker.Stop()
		for ctx.Err() == nil {
			<-ticker.C
			places <- struct{}{}
			group.Add(1)
			go func() {
				defer func() { <-places; group.Done() }()
				work()
			}()
		}
	}()
}

func put(client *http.Client, address, host string, tally *tally) func() {
	return func() {
		body := io.NopCloser(strings.NewReader("a body"))
		request, _ := http.NewRequest(http.MethodPut, "http://"+address+"/", body)
		request.Host, request.ContentLength = host, 6
		response, err := client.Do(request)
		if err == nil {
			_, err = io.Copy(io.Discard, response.Body)
			response.Body.Close()
		}
		if err == nil && response.StatusCode != http.StatusOK {
			err = fmt.Errorf("status %d", response.StatusCode)
		}
		if err != nil {
			tally.bad(err)
		} else {
			tally.Good.Add(1)
		}
	}
}

func client(http2 bool) *http.Client {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(!http2)
	protocols.SetUnencryptedHTTP2(http2)
	return &http.Client{Timeout: limit, Transport: &http.Transport{Protocols: protocols, MaxIdleConnsPerHost: inFlight}}
}

// socket sends messages on one WebSocket after the other; one that ends is cut, one that cannot be opened is bad.
func socket(ctx context.Context, address, host string, pause time.Duration, tally *tally) {
	config, _ := websocket.NewConfig("ws://"+host+"/ws", "http://"+host)
	for ctx.Err() == nil {
		conn, err := net.DialTimeout("tcp", address, limit)
		if err == nil {
			_ = conn.SetDeadline(time.Now().Add(limit))
			var ws *websocket.Conn
			if ws, err = websocket.NewClient(config, conn); err == nil {
				talk(ctx, conn, ws, pause, tally)
			}
			conn.Close()
		}
		if err != nil {
			tally.bad(err)
			time.Sleep(pause)
		}
	}
}

func talk(ctx context.Context, conn net.Conn, ws *websocket.Conn, pause time.Duration, tally *tally) {
	for number := 0; ctx.Err() == nil; number++ {
		_ = conn.SetDeadline(time.Now().Add(limit))
		said, heard := fmt.Sprint("message ", number), ""
		if err := websocket.Message.Send(ws, said); err == nil {
			err = websocket.Message.Receive(ws, &heard)
		}
		if heard != said {
			tally.Cut.Add(1)
			return
		}
		tally.Good.Add(1)
		time.Sleep(pause)
	}
}

// connect makes one connection for one question; what ends without an answer, after it was sent, is cut.
func connect(address string, tally *tally) func() {
	return func() {
		conn, err := net.DialTimeout("tcp", address, limit)
		if err != nil {
			tally.bad(err)
			return
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(limit))
		_, err = io.WriteString(conn, "GET / HTTP/1.1\r\nhost: tcp\r\nconnection: close\r\n\r\n")
		var answer []byte
		if err == nil {
			answer, err = io.ReadAll(conn)
		}
		var timeout net.Error
		switch {
		case strings.HasPrefix(string(answer), "HTTP/1.1 200"):
			tally.Good.Add(1)
		case errors.As(err, &timeout) && timeout.Timeout():
			tally.bad(err)
		default:
			tally.Cut.Add(1)
		}
	}
}

func main() {
	address := flag.String("http", "", "address and port for HTTP")
	host := flag.String("host", "", "of pods that come and go")
	steady := flag.String("steady", "", "of a pod that stays")
	tcp := flag.String("tcp", "", "address and port for TCP; none: no such load")
	rate := flag.Int("rate", 1000, "of everything, per second")
	flag.Parse()

	ctx, stop := context.WithCancel(context.Background())
	var group sync.WaitGroup
	all := map[string]*tally{"h1": {}, "h2": {}, "websocket": {}, "websocket-steady": {}}
	tenth := max(1, *rate/10)
	web := (*rate - 2*tenth) / 2
	each(ctx, &group, web, put(client(false), *address, *host, all["h1"]))
	each(ctx, &group, web, put(client(true), *address, *host, all["h2"]))
	if *tcp != "" {
		all["tcp"] = new(tally)
		each(ctx, &group, tenth, connect(*tcp, all["tcp"]))
	}
	pause := time.Second * 2 * sockets / time.Duration(tenth)
	for range sockets {
		for name, host := range map[string]string{"websocket": *host, "websocket-steady": *steady} {
			group.Go(func() { socket(ctx, *address, host, pause, all[name]) })
		}
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
	stop()
	group.Wait()
	_ = json.NewEncoder(os.Stdout).Encode(all)
}
