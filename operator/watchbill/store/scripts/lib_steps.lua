-- Steps of runs.
-- uses nothing

local STEP = '^([^\31]*)\31([^\31]*)\31([^\31]*)\31([^\31]*)\31([^\31]*)\31([^\31]*)\31([^\31]*)\31([^\31]*)\31([^\31]*)\31([^\31]*)\31([^\31]*)$'
local NONE = '\29'              -- an empty list in a packed value

-- steps: name -> state, dependencies left, index, agent, successors, the last attempt that began, fence, started, finished,
-- what its attempts spent ('': nothing), its entry while it waits on a stream ('': it doesn't, or was put there when it was due)
local function read_step(steps_key, name)
  local packed = redis.call('HGET', steps_key, name)
  if not packed then return nil end
  local state, left, index, agent, successors, attempt, fence, started, finished, spent, entry = string.match(packed, STEP)
  return { state = state, left = tonumber(left), index = index, agent = agent, successors = successors, attempt = attempt,
    fence = fence, started = started, finished = finished, spent = spent, entry = entry }
end

local function write_step(steps_key, name, s)
  redis.call('HSET', steps_key, name, s.state .. FS .. s.left .. FS .. s.index .. FS .. s.agent .. FS .. s.successors .. FS
    .. s.attempt .. FS .. s.fence .. FS .. s.started .. FS .. s.finished .. FS .. s.spent .. FS .. s.entry)
end

-- The state that people see, where the record is still there; also, if given, the entry and the last attempt that began.
-- False: it has ended, and stays so.
local function set_state(kind, record, name, state, entry, attempt)
  if kind == 's' then
    local step = read_step(record, name)
    if step and step.finished ~= '0' then return false end
    if step then
      step.state, step.entry, step.attempt = state, entry or step.entry, attempt or step.attempt
      write_step(record, name, step)
    end
  else
    local known = redis.call('HMGET', record, 'state', 'finished')
    if known[2] then return false end
    if known[1] then
      redis.call('HSET', record, 'state', state)
      if entry then redis.call('HSET', record, 'entry', entry) end
      if attempt then redis.call('HSET', record, 'attempt', attempt) end
    end
  end
  return true
end
