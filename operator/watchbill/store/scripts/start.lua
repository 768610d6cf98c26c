#!lua flags=allow-oom
-- uses events running steps states
-- Claimed tasks begin whose payload did not come with the claim: gives it, and tells that they are assigned. (Not part of
-- claiming, because a claim knows no ids beforehand and so may use fixed keys only.)
-- KEYS: fixed; then per task: task, agent events; per step: run, steps, agent events, run events
-- ARGV: uid, incarnation, n; per item: id, fence
-- -> {'gone'} | {'fenced'} | {'ok', per item {'stale'} | {'missing'} | {'ok', payload, definition, inputs, what was spent}}
local bar = barred(ARGV[1], ARGV[2])
if bar then return { bar } end
local inc = ARGV[2]
local outcome, at, key = { 'ok' }, 4, FIXED + 1
local current = redis.call('HGET', META, 'def')
for _ = 1, tonumber(ARGV[3]) do
  local id, fence = ARGV[at], ARGV[at + 1]
  at = at + 2
  local run_id, name = string.match(id, '^([^/]+)/(.*)$')
  local h = holder(id)
  local mine = holds(h, inc, fence)
  local reply, feed, run_events
  if run_id then
    feed, run_events = KEYS[key + 2], KEYS[key + 3]
    if mine then
      local run = redis.call('HMGET', KEYS[key], 'payload', 'def', 'inputs')
      local step = read_step(KEYS[key + 1], name)
      if step and (step.finished ~= '0' or step.state == 'interrupted') then
        mine = false
      elseif run[1] and step then
        if step.state ~= 'cancelling' then step.state = 'running' end
        step.attempt, step.started, step.fence, step.entry = h.attempt, now, fence, ''
        write_step(KEYS[key + 1], name, step)
        reply = { 'ok', run[1], run[2], run[3], step.spent }
      end
    end
    key = key + 4
  else
    feed = KEYS[key + 1]
    if mine then
      local task = redis.call('HMGET', KEYS[key], 'payload', 'inputs', 'state', 'spent')
      if task[3] and (ENDED[task[3]] or task[3] == 'interrupted') then
        mine = false
      elseif task[1] then
        redis.call('HSET', KEYS[key], 'state', task[3] == 'cancelling' and task[3] or 'running', 'attempt', h.attempt, 'started', now)
        reply = { 'ok', task[1], current, task[2], task[4] or '' }
      end
    end
    key = key + 2
  end
  if reply then
    if assigned(id, h, run_id, feed, run_events) then hold(id, h) end
    outcome[#outcome + 1] = reply
  elseif mine then
    outcome[#outcome + 1] = { 'missing' }
  else
    if holds(h, inc, fence) then      -- a stray entry of a task that has ended
      drop_stray(id, h)
      if h.known ~= '0' then count(h.agent, -1, feed) end
    end
    outcome[#outcome + 1] = { 'stale' }
  end
end
settle()
return outcome
