#!lua flags=allow-oom
-- uses events holders steps states limits releases items
-- Claimed tasks begin whose payload did not come with the claim: gives it, and the feeds say that they are assigned.
-- (Not part of claiming, because a claim knows no ids beforehand and so may use fixed keys only.)
-- KEYS fixed, then for each item its own (lib_items.lua)
-- ARGV
--   1 uid
--   2 inc
--   3 n                   items, each with
--     id
--     fence
-- Answers
--   {'gone'}
--   {'fenced'}
--   {'unknown'}
--   {'ok', ...}           for each item {'stale'} | {'missing'} | {'ok', payload, definition, inputs, what was spent}
local uid, inc, n = ARGV[1], ARGV[2], tonumber(ARGV[3])
local bar = barred(uid, inc)
if bar then return { bar } end
local outcomes = { 'ok' }
local current = redis.call('HGET', META, 'def')

-- What it is to do, and its state is `running` now; nil where it has no record; false where it has ended, or was set
-- aside.
local function begin_step(item, h)
  local run = redis.call('HMGET', item.run, 'payload', 'def', 'inputs')
  local step = read_step(item.steps, item.name)
  if step and (step.finished ~= '0' or step.state == 'interrupted') then return false end
  if not run[1] or not step then return nil end
  if step.state ~= 'cancelling' then step.state = 'running' end
  step.attempt, step.started, step.fence, step.entry = h.attempt, now, h.fence, ''
  write_step(item.steps, item.name, step)
  return { 'ok', run[1], run[2], run[3], step.spent }
end

local function begin_task(item, h)
  local task = redis.call('HMGET', item.task, 'payload', 'inputs', 'state', 'spent', 'agent', 'role')
  local payload, inputs, state, spent = task[1], task[2], task[3], task[4] or ''
  if state and (ENDED[state] or state == 'interrupted') then return false end
  if not payload then return nil end
  name_agent(item, h.agent, task[5], task[6])
  redis.call('HSET', item.task, 'state', state == 'cancelling' and state or 'running', 'attempt', h.attempt,
    'started', now)
  return { 'ok', payload, current, inputs, spent }
end

for i = 1, n do
  local at = 2 + 2 * i
  local id, fence = ARGV[at], ARGV[at + 1]
  local item, h = next_item(id), holder(id)
  local outcome = { 'stale' }
  if holds(h, inc, fence) then
    local begun
    if item.run_id then begun = begin_step(item, h) else begun = begin_task(item, h) end
    if begun then
      if assigned(item, h) then hold(id, h) end
      outcome = begun
    elseif begun == nil then
      outcome = { 'missing' }
    else      -- a stray entry of a task that has ended
      drop_stray(id, h)
      if h.known ~= '0' then count(h.agent, -1, item.agent_events) end
    end
  end
  outcomes[i + 1] = outcome
end
settle()
return outcomes
