// asynq, the queue of Go: lists in Redis, scripts in Lua, a queue that is polled.
//
// `bench work` is the worker; without an argument it is the producer that the runner talks to, one JSON a line, as in
// bench/peers/producing.py.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hibiken/asynq"
)

const (
	queue     = "default"
	retention = time.Hour
	// asynq blocks nowhere: this is how long an idle worker sleeps between looks, and how often we look for a result.
	poll = time.Millisecond
	// Enqueue has no bulk form; it may be called from many goroutines.
	atOnce = 20
)

type result struct {
	Number int `json:"number"`
	Square int `json:"square"`
}

func expected(number int) result { return result{number, number * number} }

func redisOption() asynq.RedisClientOpt {
	return asynq.RedisClientOpt{Addr: strings.TrimSuffix(strings.TrimPrefix(os.Getenv("BENCH_URL"), "redis://"), "/0")}
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func work() {
	concurrency, err := strconv.Atoi(os.Getenv("BENCH_CONCURRENCY"))
	must(err)
	ledger, err := os.OpenFile(os.Getenv("BENCH_LEDGER"), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	must(err)
	noop := func(_ context.Context, task *asynq.Task) error {
		number, err := strconv.Atoi(string(task.Payload()))
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(ledger, "%d %d\n", number, time.Now().UnixNano()); err != nil {
			return err
		}
		encoded, err := json.Marshal(expected(number))
		if err != nil {
			return err
		}
		_, err = task.ResultWriter().Write(encoded)
		return err
	}
	config := asynq.Config{Concurrency: concurrency, TaskCheckInterval: poll, LogLevel: asynq.WarnLevel}
	mux := asynq.NewServeMux()
	mux.HandleFunc("noop", noop)
	must(asynq.NewServer(redisOption(), config).Run(mux))
}

type order struct {
	Do    string `json:"do"`
	First int    `json:"first"`
	End   int    `json:"end"`
}

type producer struct {
	client    *asynq.Client
	inspector *asynq.Inspector
	ids       sync.Map // number → id
}

func (p *producer) submit(number int) string {
	task := asynq.NewTask("noop", []byte(strconv.Itoa(number)))
	info, err := p.client.Enqueue(task, asynq.Retention(retention), asynq.Queue(queue))
	must(err)
	return info.ID
}

func (p *producer) submitAll(first, end int) {
	numbers := make(chan int, end-first)
	for number := first; number < end; number++ {
		numbers <- number
	}
	close(numbers)
	var all sync.WaitGroup
	for range atOnce {
		all.Add(1)
		go func() {
			defer all.Done()
			for number := range numbers {
				p.ids.Store(number, p.submit(number))
			}
		}()
	}
	all.Wait()
}

func (p *producer) call(number int) []byte {
	id := p.submit(number)
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(poll) {
		info, err := p.inspector.GetTaskInfo(queue, id)
		must(err)
		if info.State == asynq.TaskStateCompleted {
			return info.Result
		}
	}
	panic("no result within 30 s")
}

func isRight(number int, encoded []byte) bool {
	var found result
	return json.Unmarshal(encoded, &found) == nil && found == expected(number)
}

func (p *producer) calls(first, end int) map[string]any {
	milliseconds, wrong := []float64{}, []string{}
	for number := first; number < end; number++ {
		begin := time.Now()
		found := p.call(number)
		milliseconds = append(milliseconds, float64(time.Since(begin).Microseconds())/1000)
		if !isRight(number, found) {
			wrong = append(wrong, fmt.Sprintf("%d: %s", number, found))
		}
		time.Sleep(5 * time.Millisecond)
	}
	return map[string]any{"ms": milliseconds, "wrong": wrong}
}

func (p *producer) check() map[string]any {
	right, wrong := 0, []string{}
	p.ids.Range(func(number, id any) bool {
		info, err := p.inspector.GetTaskInfo(queue, id.(string))
		if err == nil && isRight(number.(int), info.Result) {
			right++
		} else if len(wrong) < 10 {
			wrong = append(wrong, fmt.Sprintf("%d: %v %v", number, info, err))
		}
		return true
	})
	return map[string]any{"right": right, "wrong": wrong}
}

func (p *producer) left() map[string]any {
	info, err := p.inspector.GetQueueInfo(queue)
	if errors.Is(err, asynq.ErrQueueNotFound) {
		return map[string]any{"left": 0}
	}
	must(err)
	return map[string]any{"left": info.Pending + info.Active + info.Scheduled + info.Retry + info.Archived}
}

func say(answer any) { must(json.NewEncoder(os.Stdout).Encode(answer)) }

func version() string {
	info, _ := debug.ReadBuildInfo()
	for _, module := range info.Deps {
		if module.Path == "github.com/hibiken/asynq" {
			return strings.TrimPrefix(module.Version, "v") + ", " + info.GoVersion
		}
	}
	return "unknown"
}

func produce() {
	p := &producer{client: asynq.NewClient(redisOption()), inspector: asynq.NewInspector(redisOption())}
	self, err := os.Executable()
	must(err)
	say(map[string]any{
		"version": version(),
		"worker":  []string{self, "work"},
		"guarantee": "at least once: a killed worker's tasks are recovered when their lease (30 s) has ended; they " +
			"count as a failed try",
		"settings": "Concurrency as all, TaskCheckInterval 1 ms (default 1 s), Retention 1 h; waiter polls GetTaskInfo " +
			"each ms (it has no wait); no bulk call: Enqueue from 20 goroutines",
	})
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var o order
		must(json.Unmarshal(lines.Bytes(), &o))
		begin := time.Now()
		switch o.Do {
		case "submit":
			for number := o.First; number < o.End; number++ {
				p.ids.Store(number, p.submit(number))
			}
			say(map[string]any{"seconds": time.Since(begin).Seconds()})
		case "submit_all":
			p.submitAll(o.First, o.End)
			say(map[string]any{"seconds": time.Since(begin).Seconds()})
		case "call":
			say(p.calls(o.First, o.End))
		case "left":
			say(p.left())
		case "check":
			say(p.check())
		default:
			panic("unknown order " + o.Do)
		}
	}
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == "work" {
		work()
	} else {
		produce()
	}
}
