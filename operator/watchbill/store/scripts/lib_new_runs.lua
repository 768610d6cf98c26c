-- Runs that come in.
-- uses events tasks steps runs

local function new_runs_part()      -- made when needed, as the parts of runs
  local runs = runs_part()

  -- submitted | exists | conflict for a run without its steps. State `creating` until start_run.
  local function add_run(run_key, task_key, id, class, payload, def, work, mode, parallel, reply, inputs, values)
    if redis.call('EXISTS', task_key) == 1 then return 'conflict' end
    local known = redis.call('HMGET', run_key, 'state', 'work')
    local state = known[1]
    if state then
      if is_other(known[2], work) then return 'other' end
      if state == 'creating' or state == 'running' then subscribe(run_key, reply) end
      return state == 'creating' and 'creating' or 'exists'
    end
    redis.call('HSET', run_key, 'state', 'creating', 'class', class, 'payload', payload, 'def', def, 'work', work, 'mode', mode,
      'parallel', parallel, 'submitted', now, 'inputs', inputs, 'active', '0', 'parked', '0', 'steps', '0',
      'completed', '0', 'failed', '0', 'ends', '0')
    for i = 1, #values, 2 do redis.call('HSET', run_key, 'input:' .. values[i], values[i + 1]) end
    subscribe(run_key, reply)
    redis.call('HINCRBY', META, 'ref:' .. def, 1)
    redis.call('ZADD', IDS, now_ms + FAR, id)
    return 'submitted'
  end

  -- A step that depends on nothing is parked until the run starts.
  local function add_step(run_key, steps_key, run_id, name, agent, index, left, successors)
    if redis.call('HEXISTS', steps_key, name) == 1 then return end
    if left == 0 then
      redis.call('ZADD', PARKED, 0, runs.parked_name(run_id, name, index))
      redis.call('HINCRBY', run_key, 'parked', 1)
    end
    write_step(steps_key, name, { state = left == 0 and 'parked' or 'waiting', left = left, index = index, agent = agent,
      successors = successors == '' and NONE or successors, attempt = '0', fence = '0', started = '0', finished = '0',
      spent = '', entry = '' })
  end

  -- creating -> running, once all steps are written.
  local function start_run(run_key, steps_key, run_events, id)
    redis.call('HSET', run_key, 'state', 'running', 'steps', redis.call('HLEN', steps_key))
    runs.pump(run_key, steps_key, id, {})
    event('mission_state_changed', '"mission_id":' .. quote(id) .. ',' .. state_change('creating', 'running', ''), nil,
      run_events)
  end

  return { add_run = add_run, add_step = add_step, start_run = start_run }
end
