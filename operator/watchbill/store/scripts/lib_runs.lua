-- Runs: how they advance and end.
-- uses events answers streams steps

local function runs_part()      -- made when needed: most calls have to do with no run
  -- What a run's parked step is called; in the order of the plan within a run.
  local function parked_name(run_id, name, index) return run_id .. '/' .. string.format('%06d', tonumber(index)) .. '/' .. name end

  -- Puts ready steps on the stream, as many as the run may have at once; the others are parked. Parked ones go first.
  -- `ready`: list of {name, step}. Returns how many of the run's steps are now on the stream.
  local function pump(run_key, steps_key, run_id, ready)
    local run = redis.call('HMGET', run_key, 'active', 'parallel', 'class', 'parked', 'payload', 'def', 'inputs', 'state')
    local active, parallel, class = tonumber(run[1]), tonumber(run[2]), run[3]
    local parked, payload, def, inputs = tonumber(run[4]), run[5], run[6], run[7]
    local function enqueue(name, step)
      local id = run_id .. '/' .. name
      step.state = 'waiting'
      if #payload <= ALONG and step.spent == '' then      -- else `start` tells what was spent
        step.entry = put(class, 'id', id, 'agent', step.agent, 'payload', payload, 'def', def, 'inputs', inputs)
      else
        step.entry = put(class, 'id', id, 'agent', step.agent)
      end
      write_step(steps_key, name, step)
      active = active + 1
    end
    if run[8] == 'cancelling' then      -- nothing new begins
      for _, item in ipairs(ready) do write_step(steps_key, item[1], item[2]) end
      return active
    end
    if parked > 0 and active < parallel then
      local members = redis.call('ZRANGEBYLEX', PARKED, '[' .. run_id .. '/', '(' .. run_id .. '0', 'LIMIT', 0,
        parallel - active)
      for _, member in ipairs(members) do
        local name = string.sub(member, #run_id + 9)      -- run id, /, six digits, /
        redis.call('ZREM', PARKED, member)
        parked = parked - 1
        enqueue(name, read_step(steps_key, name))
      end
    end
    table.sort(ready, function(a, b) return tonumber(a[2].index) < tonumber(b[2].index) end)
    for _, item in ipairs(ready) do
      local name, step = item[1], item[2]
      if active < parallel then
        enqueue(name, step)
      else
        step.state = 'parked'
        write_step(steps_key, name, step)
        redis.call('ZADD', PARKED, 0, parked_name(run_id, name, step.index))
        parked = parked + 1
      end
    end
    redis.call('HSET', run_key, 'active', active, 'parked', parked)
    return active
  end

  -- Nothing of it is left to do: steps behind a failed one are never reached, so nothing needs to visit them.
  local function end_run(k, run_id, ttl)
    local run = redis.call('HMGET', k.run, 'failed', 'ends', 'def', 'reply', 'state', 'completed', 'steps')
    local before, state = run[5], run[1] == '0' and 'completed' or (run[2] ~= '0' and 'partial' or 'failed')
    if before ~= 'running' then state = before == 'cancelling' and run[6] == run[7] and 'completed' or 'cancelled' end
    redis.call('HSET', k.run, 'state', state, 'finished', now)
    for _, key in ipairs({ k.run, k.steps, k.results }) do redis.call('PEXPIRE', key, ttl) end
    redis.call('ZADD', IDS, now_ms + ttl, run_id)
    redis.call('XADD', RESULTS, '*', 'kind', 'run', 'id', run_id, 'state', state)
    event('mission_state_changed', '"mission_id":' .. quote(run_id) .. ',' .. state_change(before, state, ''), nil,
      k.run_events)
    if redis.call('HINCRBY', META, 'ref:' .. run[3], -1) <= 0 then
      redis.call('HDEL', META, 'ref:' .. run[3])
      if redis.call('HGET', META, 'def') ~= run[3] then redis.call('DEL', k.def) end
    end
    answer(run[4], run_id)
  end

  -- A step has ended. Enqueues what it made ready, and ends the run when nothing of it is on a stream.
  local function advance(k, run_id, name, step, outcome, ttl)
    redis.call('HINCRBY', k.run, 'active', -1)
    local ready = {}
    if outcome == 'completed' then
      redis.call('HINCRBY', k.run, 'completed', 1)
      if step.successors == NONE then
        redis.call('HINCRBY', k.run, 'ends', 1)
      else
        for _, successor in ipairs(split(step.successors, LS)) do
          local s = read_step(k.steps, successor)
          s.left = s.left - 1
          if s.left == 0 and s.finished == '0' then ready[#ready + 1] = { successor, s } else write_step(k.steps, successor, s) end
        end
      end
    else
      redis.call('HINCRBY', k.run, 'failed', 1)
    end
    if pump(k.run, k.steps, run_id, ready) == 0 then end_run(k, run_id, ttl) end
  end

  return { advance = advance, end_run = end_run, pump = pump, parked_name = parked_name }
end
