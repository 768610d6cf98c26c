#!lua
-- uses events answers outbox streams tasks steps runs wake items
-- Dead letters are tried again, with all their attempts: a task by itself, from its record or from what the letter
-- carries; a step within its run, which goes on from there: with the definition that it has, or, once it has ended,
-- with the crew's current one. The letter goes. At most 500 a call.
-- KEYS fixed, then for each item those of one that may end (lib_items.lua)
-- ARGV
--   1 uid
--   2 crew
--   3 max_queued
--   4 n                   items, each with
--     id
--     letter              the entry of its dead letter
--     definition          that its run is to go on with
--     parallel            that run's steps at once, at most
-- Answers
--   {'gone'}
--   {'closed', why}       somebody has closed the crew
--   {'full'}
--   {'ok', ...}           for each item: replayed | missing (no such letter: it was replayed, purged or trimmed)
--                         | taken (the id has been given to other work since)
--                         | expired (neither its record nor the letter says what it was to do)
--                         | changed (the run can't take that definition by now: look again)
local uid, crew, max_queued, n = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
if is_gone(uid) then return { 'gone' } end
local closing = redis.call('HGET', META, 'closing')
if closing then return { 'closed', closing } end
local waiting = queued()
if present(waiting) + n > max_queued then return refuse() end

local function field(fields, wanted)
  for i = 1, #fields, 2 do
    if fields[i] == wanted then return fields[i + 1] end
  end
end

local function replay_task(item, letter)
  local task, id = item.task, item.id
  local known = redis.call('HMGET', task, 'state', 'payload', 'inputs', 'agent', 'class', 'spent', 'role')
  local state, payload, inputs, agent, class, spent = known[1], known[2], known[3], known[4], known[5], known[6] or ''
  if state and state ~= 'dead' then return 'taken' end
  if state then
    redis.call('HDEL', task, 'result', 'finished', 'attempt', 'started')
    if known[7] then      -- it waits for its role again
      agent = known[7]
      redis.call('HSET', task, 'agent', agent)
    end
    redis.call('PERSIST', task)
  else
    if tonumber(redis.call('ZSCORE', IDS, id) or '0') > now_ms then return 'taken' end      -- a run's
    payload, inputs, class = field(letter, 'payload'), field(letter, 'inputs') or '', field(letter, 'class')
    agent = field(letter, 'role') or field(letter, 'agent')
    if not payload or not agent or not STREAM[class] then return 'expired' end
    redis.call('HSET', task, 'agent', agent, 'class', class, 'payload', payload, 'submitted', now, 'inputs', inputs,
      'work', field(letter, 'work') or '')
    local deliver = field(letter, 'deliver')
    if deliver then redis.call('HSET', task, 'deliver', deliver) end
    spent = field(letter, 'spent') or ''
    if spent ~= '' then redis.call('HSET', task, 'spent', spent) end
    for i = 1, #letter, 2 do
      if string.find(letter[i], '^input:') then redis.call('HSET', task, letter[i], letter[i + 1]) end
    end
  end
  local entry
  if #payload <= ALONG and spent == '' then      -- else `start` gives what was spent
    entry = put(class, 'id', id, 'agent', agent, 'payload', payload, 'inputs', inputs)
  else
    entry = put(class, 'id', id, 'agent', agent)
  end
  redis.call('HSET', task, 'state', 'waiting', 'entry', entry)
  redis.call('ZADD', IDS, now_ms + FAR, id)
  return 'replayed', agent
end

local function replay_step(item, definition, parallel)
  local run = redis.call('HMGET', item.run, 'state', 'def')
  local state, before = run[1], run[2]
  local step = state and read_step(item.steps, item.name)
  if not step or redis.call('EXISTS', item.definition) == 0 then return 'expired' end
  if step.state ~= 'dead' or state == 'cancelling' or state == 'cancelled' then return 'taken' end
  -- What waits or runs of a run holds its definition: another can be given only to one that has ended.
  if definition ~= before and (state == 'running' or redis.call('HGET', META, 'def') ~= definition) then
    return 'changed'
  end
  if state ~= 'running' then
    if definition ~= before then redis.call('HSET', item.run, 'def', definition, 'parallel', parallel) end
    redis.call('HSET', item.run, 'state', 'running')
    redis.call('HDEL', item.run, 'finished')
    for _, key in ipairs({ item.run, item.steps, item.results }) do redis.call('PERSIST', key) end
    redis.call('ZADD', IDS, now_ms + FAR, item.run_id)
    redis.call('HINCRBY', META, 'ref:' .. definition, 1)
    runs().changed(item, state, 'running', 'replayed')
  end
  if not runs().is_marked(step, SYNTHESIS) then redis.call('HINCRBY', item.run, 'failed', -1) end
  redis.call('HDEL', item.results, item.name)
  step.state, step.attempt, step.started, step.finished = 'waiting', '0', '0', '0'
  runs().pump(item, { { item.name, step } })
  return 'replayed', step.agent
end

local outcomes, replayed = { 'ok' }, 0
for i = 1, n do
  local at = 1 + 4 * i
  local id, letter, definition, parallel = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  local item, outcome, agent = next_item(id, true), 'missing', nil
  local found = redis.call('XRANGE', DEAD, letter, letter)[1]
  if found and field(found[2], 'id') == id then
    if item.run_id then
      outcome, agent = replay_step(item, definition, parallel)
    else
      outcome, agent = replay_task(item, found[2])
    end
  end
  if outcome == 'replayed' then
    replayed = replayed + 1
    redis.call('XDEL', DEAD, letter)
    item_event(item, 'mission_event', agent, 'replayed from the dead letters')
  end
  outcomes[i + 1] = outcome
end
if replayed > 0 then
  ring()
  wake(crew, false, waiting)
end
return outcomes
