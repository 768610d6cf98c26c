#!lua flags=allow-oom
-- Results in, entries off the streams, runs advanced; then the next claim, in the same call.
-- KEYS: fixed; then per task: task, agent events; per step: run, steps, results, definition, agent events, run events
-- ARGV: uid, incarnation, sequence number, slots (-1: don't claim), lease ms, may take over?, n;
--   per item: kind (t | s), id, fence, step, outcome (completed | failed | dead), ttl ms, tokens, result,
--   result for the results stream ('' = too large, read it from its record), message
-- -> {'gone'} | {'fenced'} | {'ok', {per item: applied | repeated | stale}, what `claim` says, or {}}
local bar = barred(ARGV[1], ARGV[2])
if bar then return { bar } end
local inc, n = ARGV[2], tonumber(ARGV[7])
local outcomes, at, key, enqueued = {}, 8, FIXED + 1, false
for i = 1, n do
  local kind, id, fence, name, outcome = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4]
  local ttl, tokens, result, brief, message = tonumber(ARGV[at + 5]), ARGV[at + 6], ARGV[at + 7], ARGV[at + 8], ARGV[at + 9]
  at = at + 10
  local k, run_id, step
  if kind == 't' then
    k = { task = KEYS[key], agent_events = KEYS[key + 1] }
    key = key + 2
  else
    k = { run = KEYS[key], steps = KEYS[key + 1], results = KEYS[key + 2], def = KEYS[key + 3],
      agent_events = KEYS[key + 4], run_events = KEYS[key + 5] }
    key = key + 6
    run_id = string.match(id, '^[^/]+')
    step = read_step(k.steps, name)
  end
  local h = holder(id)
  if not holds(h, inc, fence) then
    local last
    if kind == 't' then last = redis.call('HGET', k.task, 'fence') else last = step and step.finished ~= '0' and step.fence end
    outcomes[i] = last == fence and 'repeated' or 'stale'
  else
    release(id, h)
    if h.counted then agent_stops(h.agent, k.agent_events) end
    if kind == 't' and redis.call('EXISTS', k.task) == 1 then
      redis.call('HSET', k.task, 'state', outcome, 'result', result, 'fence', fence, 'finished', int(now_ms), 'attempt',
        int(h.attempt), 'tokens', tokens)
      redis.call('PEXPIRE', k.task, ttl)
      redis.call('ZADD', IDS, now_ms + ttl, id)
      answer(redis.call('HGET', k.task, 'reply'), id)
    elseif step then
      step.state, step.attempt, step.fence, step.finished, step.tokens = outcome, int(h.attempt), fence, int(now_ms), tokens
      write_step(k.steps, name, step)
      redis.call('HSET', k.results, name, result)
    end
    redis.call('XADD', RESULTS, 'MAXLEN', '~', 100000, '*', 'kind', kind == 't' and 'task' or 'step', 'id', id, 'state',
      outcome, 'result', brief)
    event(outcome == 'completed' and 'task_completed' or 'task_failed', about(h.agent, id, run_id, message), k.agent_events,
      k.run_events)
    if outcome == 'dead' then bury(message, id, { 'class', h.class, 'agent', h.agent, 'attempt', int(h.attempt) }) end
    if step then
      advance(k, run_id, name, step, outcome, tokens, ttl)
      enqueued = true
    end
    outcomes[i] = 'applied'
  end
end
if n > 0 then tidy() end
local slots = tonumber(ARGV[4])
if slots <= 0 and enqueued and queued() > redis.call('HLEN', RUNNING) then ring() end
if slots < 0 then return { 'ok', outcomes, {} } end
return { 'ok', outcomes, claim(inc, ARGV[3], slots, tonumber(ARGV[5]), ARGV[6] == '1') }
