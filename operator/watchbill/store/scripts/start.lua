#!lua flags=allow-oom
-- Claimed tasks begin: gives their payloads, and tells that they are assigned. (Not part of claiming, because a claim
-- knows no ids beforehand and so may write fixed keys only.)
-- KEYS: fixed; then per task: task, agent events; per step: run, steps, agent events, run events
-- ARGV: uid, incarnation, n; per item: kind (t | s), id, fence, step ('' for a task)
-- -> {'gone'} | {'fenced'} | {'ok', per item {'stale'} | {'missing'} | {'ok', payload, definition, inputs}}
local bar = barred(ARGV[1], ARGV[2])
if bar then return { bar } end
local inc, n = ARGV[2], tonumber(ARGV[3])
local outcome, at, key = { 'ok' }, 4, FIXED + 1
local current = redis.call('HGET', META, 'def')
for _ = 1, n do
  local kind, id, fence, name = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  at = at + 4
  local h = holder(id)
  local reply, agent_events, run_events, run_id
  local mine = holds(h, inc, fence)
  if kind == 't' then
    agent_events = KEYS[key + 1]
    if mine then
      local task = redis.call('HMGET', KEYS[key], 'payload', 'inputs', 'result')
      if task[3] then      -- a stray entry of a task that has ended
        release(id, h)
        mine = false
      elseif task[1] then
        redis.call('HSET', KEYS[key], 'state', 'running', 'attempt', int(h.attempt), 'started', int(now_ms))
        reply = { 'ok', task[1], current, task[2] }
      end
    end
    key = key + 2
  else
    agent_events, run_events = KEYS[key + 2], KEYS[key + 3]
    run_id = string.match(id, '^[^/]+')
    if mine then
      local run = redis.call('HMGET', KEYS[key], 'payload', 'def', 'inputs')
      local step = read_step(KEYS[key + 1], name)
      if step and step.finished ~= '0' then
        release(id, h)
        mine = false
      elseif run[1] and step then
        step.state, step.attempt, step.started, step.fence = 'running', int(h.attempt), int(now_ms), fence
        write_step(KEYS[key + 1], name, step)
        reply = { 'ok', run[1], run[2], run[3] }
      end
    end
    key = key + 4
  end
  if not mine then
    outcome[#outcome + 1] = { 'stale' }
  elseif not reply then
    outcome[#outcome + 1] = { 'missing' }
  else
    if h.started == '0' then
      h.started = int(now_ms)
      if not h.counted then
        h.counted = true
        agent_starts(h.agent, agent_events)
      end
      event('task_assigned', about(h.agent, id, run_id, h.attempt > 1 and 'attempt ' .. int(h.attempt) or ''), agent_events,
        run_events)
      hold(id, h)
    end
    outcome[#outcome + 1] = reply
  end
end
return outcome
