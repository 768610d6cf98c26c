#!lua
-- uses events answers streams tasks steps runs
-- Dead letters are tried again, with all their attempts: a task by itself, from its record or from what the letter carries;
-- a step within its run, which goes on from there: with the definition that it has, or, once it has ended, with the crew's
-- current one. The letter goes. At most 500 a call.
-- KEYS: fixed; then per task: task, agent events; per step: run, steps, results, definition, agent events, run events
-- ARGV: uid, crew, maxQueued, n; per item: letter, id, definition that the run is to go on with, its steps at once
-- -> {'gone'} | {'full'} | {'ok', per item: replayed | missing (no such letter: it was replayed, purged or trimmed)
--   | taken (the id has been given to other work since) | expired (nothing says any more what it was to do)
--   | changed (the run can't take that definition by now: look again)}
if is_gone(ARGV[1]) then return { 'gone' } end
local n, waiting = tonumber(ARGV[4]), queued()
if present(waiting) + n > tonumber(ARGV[3]) then return refuse() end
local runs = runs_part()

local function field(fields, wanted)
  for i = 1, #fields, 2 do
    if fields[i] == wanted then return fields[i + 1] end
  end
end

local function replay_task(task_key, id, letter)
  local known = redis.call('HMGET', task_key, 'state', 'payload', 'inputs', 'agent', 'class', 'spent')
  local payload, inputs, agent, class, spent = known[2], known[3], known[4], known[5], known[6] or ''
  if known[1] and known[1] ~= 'dead' then return 'taken' end
  if known[1] then
    redis.call('HDEL', task_key, 'result', 'finished', 'attempt', 'started')
    redis.call('PERSIST', task_key)
  else
    if tonumber(redis.call('ZSCORE', IDS, id) or '0') > now_ms then return 'taken' end      -- a run's
    payload, inputs, agent, class = field(letter, 'payload'), field(letter, 'inputs') or '', field(letter, 'agent'), field(letter, 'class')
    if not payload or not agent or not STREAM[class] then return 'expired' end
    redis.call('HSET', task_key, 'agent', agent, 'class', class, 'payload', payload, 'submitted', now, 'inputs', inputs,
      'work', field(letter, 'work') or '')
    spent = field(letter, 'spent') or ''
    if spent ~= '' then redis.call('HSET', task_key, 'spent', spent) end
    for i = 1, #letter, 2 do
      if string.find(letter[i], '^input:') then redis.call('HSET', task_key, letter[i], letter[i + 1]) end
    end
  end
  local entry
  if #payload <= ALONG and spent == '' then      -- else `start` tells what was spent
    entry = put(class, 'id', id, 'agent', agent, 'payload', payload, 'inputs', inputs)
  else
    entry = put(class, 'id', id, 'agent', agent)
  end
  redis.call('HSET', task_key, 'state', 'waiting', 'entry', entry)
  redis.call('ZADD', IDS, now_ms + FAR, id)
  return 'replayed', agent
end

local function replay_step(k, run_id, name, def, parallel)
  local run = redis.call('HMGET', k.run, 'state', 'def')
  local step = run[1] and read_step(k.steps, name)
  if not step or redis.call('EXISTS', k.def) == 0 then return 'expired' end
  if step.state ~= 'dead' or run[1] == 'cancelling' or run[1] == 'cancelled' then return 'taken' end
  -- What waits or runs of a run holds its definition: another can be given only to one that has ended.
  if def ~= run[2] and (run[1] == 'running' or redis.call('HGET', META, 'def') ~= def) then return 'changed' end
  if run[1] ~= 'running' then
    if def ~= run[2] then redis.call('HSET', k.run, 'def', def, 'parallel', parallel) end
    redis.call('HSET', k.run, 'state', 'running')
    redis.call('HDEL', k.run, 'finished')
    for _, key in ipairs({ k.run, k.steps, k.results }) do redis.call('PERSIST', key) end
    redis.call('ZADD', IDS, now_ms + FAR, run_id)
    redis.call('HINCRBY', META, 'ref:' .. def, 1)
    event('mission_state_changed', '"mission_id":' .. quote(run_id) .. ',' .. state_change(run[1], 'running', 'replayed'), nil,
      k.run_events)
  end
  redis.call('HINCRBY', k.run, 'failed', -1)
  redis.call('HDEL', k.results, name)
  step.state, step.attempt, step.started, step.finished = 'waiting', '0', '0', '0'
  runs.pump(k.run, k.steps, run_id, { { name, step } })
  return 'replayed', step.agent
end

local outcomes, at, key, replayed = { 'ok' }, 5, FIXED + 1, 0
for _ = 1, n do
  local entry, id, def, parallel, outcome, agent, agent_events, run_events = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  at = at + 4
  local run_id, name = string.match(id, '^([^/]+)/(.*)$')
  local letter = redis.call('XRANGE', DEAD, entry, entry)[1]
  if not letter or field(letter[2], 'id') ~= id then
    outcome = 'missing'
  elseif run_id then
    local k = { run = KEYS[key], steps = KEYS[key + 1], results = KEYS[key + 2], def = KEYS[key + 3] }
    agent_events, run_events = KEYS[key + 4], KEYS[key + 5]
    k.run_events = run_events
    outcome, agent = replay_step(k, run_id, name, def, parallel)
  else
    agent_events = KEYS[key + 1]
    outcome, agent = replay_task(KEYS[key], id, letter[2])
  end
  key = key + (run_id and 6 or 2)
  if outcome == 'replayed' then
    replayed = replayed + 1
    redis.call('XDEL', DEAD, entry)
    event('mission_event', about(agent, id, run_id, 'replayed from the dead letters'), agent_events, run_events)
  end
  outcomes[#outcomes + 1] = outcome
end
if replayed > 0 then
  ring()
  if waiting == 0 then wake(ARGV[2]) end
end
return outcomes
