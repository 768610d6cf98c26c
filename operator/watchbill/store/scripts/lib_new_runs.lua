-- Runs that come in.
-- uses tasks steps runs

-- The arguments that say what a run is to do, from `at`, and where those behind them begin:
--   id
--   class
--   payload
--   definition        that it keeps
--   work              digest of what is to be done; '': none
--   mode
--   parallel          steps at once, at most
--   reply             channel of a client that waits; '': none
--   deliver           its destinations (lib_outbox.lua); '': none
--   inputs            their names, joined by spaces
--   n_inputs          how many they are, then name and value of each
--   n                 steps here, each with
--     name
--     agent
--     index
--     left            dependencies that haven't ended
--     successors      joined by LS; '': none
--     marks           (packed.Step in Python)
--     reads           the steps whose outputs it is given, joined by LS; '': none, or whoever claims it reads them
local function read_run(at)
  local id, class, payload, definition, work = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4]
  local mode, parallel, reply, deliver = ARGV[at + 5], ARGV[at + 6], ARGV[at + 7], ARGV[at + 8]
  local inputs, n_inputs = ARGV[at + 9], tonumber(ARGV[at + 10])
  local values, steps = {}, {}
  for i = 1, 2 * n_inputs, 2 do
    local name, value = ARGV[at + 10 + i], ARGV[at + 11 + i]
    values[i], values[i + 1] = 'input:' .. name, value
  end
  at = at + 11 + 2 * n_inputs
  local n = tonumber(ARGV[at])
  for i = 1, n do
    local from = at + 1 + 7 * (i - 1)
    local name, agent, index = ARGV[from], ARGV[from + 1], ARGV[from + 2]
    local left, successors, marks, reads = tonumber(ARGV[from + 3]), ARGV[from + 4], ARGV[from + 5], ARGV[from + 6]
    steps[i] = { name = name, agent = agent, index = index, left = left, successors = successors, marks = marks,
      reads = reads }
  end
  return { id = id, class = class, payload = payload, definition = definition, work = work, mode = mode,
    parallel = parallel, reply = reply, deliver = deliver, inputs = inputs, values = values, steps = steps }
end

-- Adds a run without its steps, in the state `creating`. `of`: its keys (run, steps, run_events, task) and run_id.
-- submitted | creating (it isn't whole yet) | exists (or is being cancelled) | conflict (with a task) | other
local function add_run(of, run)
  if redis.call('EXISTS', of.task) == 1 then return 'conflict' end
  local known = redis.call('HMGET', of.run, 'state', 'work', 'why')
  local state, work, why = known[1], known[2], known[3]
  if state then
    if is_other(work, run.work) then return 'other' end
    if state == 'creating' or state == 'running' then subscribe(of.run, run.reply) end
    return state == 'creating' and not why and 'creating' or 'exists'
  end
  redis.call('HSET', of.run, 'state', 'creating', 'class', run.class, 'payload', run.payload, 'def', run.definition,
    'work', run.work, 'mode', run.mode, 'parallel', run.parallel, 'submitted', now, 'inputs', run.inputs, 'active', '0',
    'parked', '0', 'steps', '0', 'completed', '0', 'failed', '0', 'ends', '0')
  for i = 1, #run.values, 2 do redis.call('HSET', of.run, run.values[i], run.values[i + 1]) end
  if run.deliver ~= '' then redis.call('HSET', of.run, 'deliver', run.deliver) end
  subscribe(of.run, run.reply)
  redis.call('HINCRBY', META, 'ref:' .. run.definition, 1)
  redis.call('ZADD', IDS, now_ms + FAR, run.id)
  return 'submitted'
end

-- Adds steps that aren't there. One that depends on nothing is parked until the run starts.
local function add_steps(of, steps)
  local reads = {}
  for _, step in ipairs(steps) do
    if step.reads and step.reads ~= '' then
      reads[#reads + 1], reads[#reads + 2] = 'reads:' .. step.name, step.reads
    end
    local packed = pack_step({ state = step.left == 0 and 'parked' or 'waiting', left = step.left, index = step.index,
      agent = step.agent, successors = step.successors == '' and NONE or step.successors, attempt = '0', fence = '0',
      started = '0', finished = '0', spent = '', entry = '', marks = step.marks })
    if redis.call('HSETNX', of.steps, step.name, packed) == 1 then
      if step.left == 0 then
        redis.call('ZADD', PARKED, 0, runs().bound_name(of.run_id, step.name, step.index))
        redis.call('HINCRBY', of.run, 'parked', 1)
      end
      if runs().is_marked(step, SYNTHESIS) then redis.call('HSET', of.run, 'synthesis', step.name) end
    end
  end
  if #reads > 0 then redis.call('HSET', of.run, unpack(reads)) end
end

-- creating -> running, once all steps are written.
local function start_run(of)
  local steps = redis.call('HLEN', of.steps) - redis.call('HEXISTS', of.run, 'synthesis')      -- which doesn't count
  redis.call('HSET', of.run, 'state', 'running', 'steps', steps)
  runs().pump(of, {})
  runs().changed(of, 'creating', 'running', '')
end
