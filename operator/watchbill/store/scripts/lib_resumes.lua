-- How what was set aside goes on.
-- uses streams steps wake

-- Its record: state, agent, attempt (the last that counts), spent, class, payload, inputs, definition (of a step). nil:
-- there is none.
local function find_aside(item)
  if item.run_id then
    local run = redis.call('HMGET', item.run, 'class', 'payload', 'inputs', 'def')
    local step = run[1] and read_step(item.steps, item.name)
    return step and { state = step.state, agent = step.agent, attempt = step.attempt, spent = step.spent,
      class = run[1], payload = run[2], inputs = run[3], definition = run[4] }
  end
  local task = redis.call('HMGET', item.task, 'state', 'agent', 'attempt', 'spent', 'class', 'payload', 'inputs')
  return task[1] and { state = task[1], agent = task[2], attempt = task[3] or '0', spent = task[4] or '',
    class = task[5], payload = task[6], inputs = task[7] }
end

-- Puts it back onto its stream, with all that it had, and wakes who is to know.
local function put_back(item, found, crew)
  local class, agent, payload, inputs = found.class, found.agent, found.payload, found.inputs
  local before, entry = queued(), nil
  local attempt = int(tonumber(found.attempt) + 1)
  if #payload > ALONG or found.spent ~= '' then      -- `start` gives what was spent
    entry = put(class, 'id', item.id, 'agent', agent, 'attempt', attempt)
  elseif found.definition then
    entry = put(class, 'id', item.id, 'agent', agent, 'attempt', attempt, 'payload', payload, 'inputs', inputs,
      'def', found.definition)
  else
    entry = put(class, 'id', item.id, 'agent', agent, 'attempt', attempt, 'payload', payload, 'inputs', inputs)
  end
  set_state(item, 'waiting', entry)
  ring()
  wake(crew, false, before)
end
