-- Steps of runs, and the state that people see of a task or step.
-- uses nothing

-- A value of a run's hash of steps (packed.Step in Python): state, dependencies left, index, agent, successors, the
-- last attempt that began, fence, started, finished, what its attempts spent (packed as workers do; '' is nothing),
-- its entry while it waits on a stream ('': it doesn't, or was put there when it was due), and its marks. A step that
-- has none ends with its entry.
local step_pattern              -- made when it is needed: most calls have to do with no step
local NONE = '\29'              -- an empty list in a packed value

local function unpack_step(packed)
  if not packed then return nil end
  step_pattern = step_pattern or '^' .. string.rep('([^\31]*)\31', 10) .. '([^\31]*)\31?([^\31]*)$'
  local state, left, index, agent, successors, attempt, fence, started, finished, spent, entry, marks =
    string.match(packed, step_pattern)
  return { state = state, left = tonumber(left), index = index, agent = agent, successors = successors,
    attempt = attempt, fence = fence, started = started, finished = finished, spent = spent, entry = entry,
    marks = marks }
end

local function read_step(steps_key, name) return unpack_step(redis.call('HGET', steps_key, name)) end

-- Letters of `marks` (packed.Step in Python says what they mean).
local LENIENT, RELEASED, SYNTHESIS, DELEGATED = 'c', 'r', 's', 'd'

local function pack_step(s)
  return s.state .. FS .. s.left .. FS .. s.index .. FS .. s.agent .. FS .. s.successors .. FS .. s.attempt .. FS
    .. s.fence .. FS .. s.started .. FS .. s.finished .. FS .. s.spent .. FS .. s.entry
    .. (s.marks == '' and '' or FS .. s.marks)
end

local function write_step(steps_key, name, s) redis.call('HSET', steps_key, name, pack_step(s)) end

-- The score in `parked:interrupt` of a step that its run had no place for. It is among the run's active steps, so that
-- the run doesn't end, and among the `unplaced` ones of those, which take no place from others.
local UNPLACED = '1'

-- Such a step is `unplaced` no more. `due`: the score.
local function count_placed(item, due)
  if due == UNPLACED then redis.call('HINCRBY', item.run, 'unplaced', -1) end
end

-- Writes the state, where the record is still there; where given, also the entry and the last attempt that began.
-- False: the task or step has ended, and stays so.
local function set_state(item, state, entry, attempt)
  if item.run_id then
    local step = read_step(item.steps, item.name)
    if step and step.finished ~= '0' then return false end
    if step then
      step.state, step.entry, step.attempt = state, entry or step.entry, attempt or step.attempt
      write_step(item.steps, item.name, step)
    end
  else
    local known = redis.call('HMGET', item.task, 'state', 'finished')
    if known[2] then return false end
    if known[1] then
      redis.call('HSET', item.task, 'state', state)
      if entry then redis.call('HSET', item.task, 'entry', entry) end
      if attempt then redis.call('HSET', item.task, 'attempt', attempt) end
    end
  end
  return true
end
