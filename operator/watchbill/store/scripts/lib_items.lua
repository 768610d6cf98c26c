-- The items of a call: tasks, and steps of runs.
-- uses nothing

local next_key = FIXED + 1

-- Writes which agent was given a task of a role into its record, of which agent and role are known. (false: nothing
-- is.) Returns for whom it waits, if it fails: for its role, or for its agent.
local function name_agent(item, agent, known, role)
  if known == agent and not role then return agent end      -- the usual case
  role = role or known and role_of(known) and known
  if not role then return agent end
  if agent ~= known then redis.call('HSET', item.task, 'agent', agent, 'role', role) end
  return role
end

-- The next item, of this id, which is `RUN/STEP` for a step, with its KEYS:
--   of a task                      task, agent_events
--   of a step                      run, steps, agent_events, run_events
--   of a step that `may_end`       run, steps, results, definition, agent_events, run_events
local function next_item(id, may_end)
  local key = next_key
  if not string.find(id, '/', 1, true) then
    local task, agent_events = KEYS[key], KEYS[key + 1]
    next_key = key + 2
    return { id = id, task = task, agent_events = agent_events, is_there = false, reply = false, deliver = false,
      role = false }
  end
  local run_id, name = string.match(id, '^([^/]+)/(.*)$')
  local results, definition
  local run, steps = KEYS[key], KEYS[key + 1]
  if may_end then
    results, definition = KEYS[key + 2], KEYS[key + 3]
    key = key + 2
  end
  local agent_events, run_events = KEYS[key + 2], KEYS[key + 3]
  next_key = key + 4
  return { id = id, run_id = run_id, name = name, run = run, steps = steps, results = results, definition = definition,
    agent_events = agent_events, run_events = run_events, step = false, is_there = false }
end
