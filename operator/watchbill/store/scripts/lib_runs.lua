-- How runs advance and end.
-- uses events answers outbox streams steps

local BLOCKED_MOST = 20         -- steps behind one that has failed that the feeds name
local runs_made
local function runs()           -- made when needed: most calls have to do with no run
  if runs_made then return runs_made end
  local ended_runs = {}         -- id, state and ms since submission of each run that ended

  local function is_marked(step, mark) return string.find(step.marks, mark, 1, true) ~= nil end

  -- A member of `parked:concurrency`: in the order of the plan within a run.
  local function bound_name(run_id, name, index)
    return run_id .. '/' .. string.format('%06d', tonumber(index)) .. '/' .. name
  end

  -- The steps of a run that wait for its bound: at most so many members of `parked:concurrency`.
  local function bound_members(run_id, most)
    return redis.call('ZRANGEBYLEX', PARKED, '[' .. run_id .. '/', '(' .. run_id .. '0', 'LIMIT', 0, most)
  end

  -- Its run's id, a slash, six digits and a slash stand before a step's name.
  local function name_of_bound(run_id, member) return string.sub(member, #run_id + 9) end

  local function changed(of, old, new, message)
    event('mission_state_changed', '"mission_id":' .. quote(of.run_id) .. ',' .. state_change(old, new, message), nil,
      of.run_events)
  end

  -- Tells of a step as a part of its run: nobody is at it, or its agent's feed says so in its own words.
  local function tell(of, name, kind, message)
    event(kind, '"task_id":' .. quote(of.run_id .. '/' .. name) .. ',"mission_id":' .. quote(of.run_id)
      .. ',"message":' .. quote(message), nil, of.run_events)
  end

  -- What the end of a step means for its agent, for the run, and for the steps right behind it.
  local function tell_end(item, ended, successors)
    local outcome, agent = ended.outcome, item.step.agent
    if outcome == 'completed' then
      item_event(item, 'agent_completed', agent, '')
      return tell(item, item.name, 'mission_work_completed', '')
    end
    if outcome == 'skipped' then return tell(item, item.name, 'mission_work_completed', ended.message) end
    if outcome ~= 'cancelled' then item_event(item, 'agent_failed', agent, ended.message) end
    if redis.call('HGET', item.run, 'state') == 'cancelling' then return end
    if outcome == 'dead' then
      tell(item, item.name, 'mission_help_needed', 'no attempt is left: see to the cause, then replay its dead letter')
    end
    for i = 1, is_marked(item.step, LENIENT) and 0 or math.min(#successors, BLOCKED_MOST) do
      tell(item, successors[i], 'mission_work_blocked', 'step ' .. item.name .. ' has ended as ' .. outcome)
    end
  end

  -- What the entries of a run's steps carry: class, payload, definition and names of inputs. Read once a call.
  local carried = {}
  local function carried_by(of)
    local known = carried[of.run_id] or redis.call('HMGET', of.run, 'class', 'payload', 'def', 'inputs')
    carried[of.run_id] = known
    return unpack(known)
  end

  -- What a step is given, if its entry can carry it (packed.given in Python): its item, and the results of the steps
  -- before it. '': whoever claims it reads that, because it is large, or not final: what has failed may be replayed.
  local function given(of, name, is_final)
    local known = redis.call('HMGET', of.run, 'item:' .. name, 'reads:' .. name, 'large')
    local item, reads, parts = known[1], known[2], {}
    local size = item and #item or 0
    if item then parts = { '', item } end
    if reads then
      if not is_final or known[3] or not of.results then return '' end
      local names = split(reads, LS)
      for i, result in ipairs(redis.call('HMGET', of.results, unpack(names))) do
        if not result then return '' end
        parts[#parts + 1], parts[#parts + 2], size = names[i], result, size + #result
      end
    end
    return size <= ALONG and table.concat(parts, FS) or ''
  end

  -- Puts a step on the stream. `is_final`: no step of its run has failed.
  local function enqueue(of, name, step, is_final)
    local id, class, payload, definition, inputs = of.run_id .. '/' .. name, carried_by(of)
    step.state = 'waiting'
    if #payload <= ALONG and step.spent == '' and step.attempt == '0' then      -- else `start` gives what was spent
      local with = given(of, name, is_final)
      if with == '' then
        step.entry = put(class, 'id', id, 'agent', step.agent, 'payload', payload, 'def', definition, 'inputs', inputs)
      else
        step.entry = put(class, 'id', id, 'agent', step.agent, 'payload', payload, 'def', definition, 'inputs', inputs,
          'given', with)
      end
    else      -- or whoever waited for others goes on with its attempts
      step.entry = put(class, 'id', id, 'agent', step.agent, 'attempt', int(tonumber(step.attempt) + 1))
    end
    write_step(of.steps, name, step)
  end

  -- Puts ready steps on the stream, as many as the run may have at once; the others are parked. Parked ones go first.
  -- `ready`: list of {name, step}; `ended`: what the end of a step adds to `completed`, `failed` and `ends`. Returns
  -- how many of the run's steps are now on the stream.
  local function pump(of, ready, ended)
    local run = redis.call('HMGET', of.run, 'active', 'parallel', 'parked', 'state', 'completed', 'failed', 'ends',
      'unplaced')
    local active, parallel, parked = tonumber(run[1]), run[2] + (run[8] or 0), tonumber(run[3])
    local is_stopped, is_final = run[4] == 'cancelling', run[6] + (ended and ended.failed or 0) == 0
    if ended then active = active - 1 end
    if is_stopped then      -- nothing new begins
      for _, item in ipairs(ready) do write_step(of.steps, item[1], item[2]) end
    elseif parked > 0 and active < parallel then
      for _, member in ipairs(bound_members(of.run_id, parallel - active)) do
        local name = name_of_bound(of.run_id, member)
        redis.call('ZREM', PARKED, member)
        parked, active = parked - 1, active + 1
        enqueue(of, name, read_step(of.steps, name), is_final)
      end
    end
    table.sort(ready, function(a, b) return tonumber(a[2].index) < tonumber(b[2].index) end)
    for _, item in ipairs(is_stopped and {} or ready) do
      local name, step = item[1], item[2]
      tell(of, name, 'mission_work_promoted', '')
      if active < parallel then
        active = active + 1
        enqueue(of, name, step, is_final)
      else
        step.state = 'parked'
        write_step(of.steps, name, step)
        redis.call('ZADD', PARKED, 0, bound_name(of.run_id, name, step.index))
        parked = parked + 1
      end
    end
    if ended then
      redis.call('HSET', of.run, 'active', active, 'parked', parked, 'completed', run[5] + ended.completed, 'failed',
        run[6] + ended.failed, 'ends', run[7] + ended.ends)
    else
      redis.call('HSET', of.run, 'active', active, 'parked', parked)
    end
    return active
  end

  -- Nothing refers to this definition any more. The caller names the key of the one that it knows, which may be
  -- another: a run that was replayed since has taken up that of its crew, and a worker that never began the step takes
  -- the run's for the current one. Then the next trim removes it (trim.lua), whose caller reads which it is.
  local function forget_definition(of, definition)
    if string.sub(of.definition, -#definition) == definition then return redis.call('DEL', of.definition) end
    local before = redis.call('HGET', META, 'unused')
    redis.call('HSET', META, 'unused', (before and before .. LS or '') .. definition)
  end

  -- Nothing of it is left to do: steps behind a failed one are never reached, so nothing needs to visit them.
  local function end_run(of, ttl)
    local run = redis.call('HMGET', of.run, 'failed', 'ends', 'def', 'reply', 'state', 'completed', 'steps',
      'deliver', 'submitted')
    local failed, ends, definition, reply, before, completed, steps, deliver, submitted = unpack(run)
    local state = failed == '0' and 'completed' or (ends ~= '0' and 'partial' or 'failed')
    if before ~= 'running' then state = before == 'cancelling' and completed == steps and 'completed' or 'cancelled' end
    redis.call('HSET', of.run, 'state', state, 'finished', now)
    for _, key in ipairs({ of.run, of.steps, of.results }) do redis.call('PEXPIRE', key, ttl) end
    redis.call('ZADD', IDS, now_ms + ttl, of.run_id)
    redis.call('XADD', RESULTS, '*', 'kind', 'run', 'id', of.run_id, 'state', state)
    ended_runs[#ended_runs + 1] = of.run_id
    ended_runs[#ended_runs + 1] = state
    ended_runs[#ended_runs + 1] = int(math.max(now_ms - (tonumber(submitted) or now_ms), 0))
    changed(of, before, state, '')
    if redis.call('HINCRBY', META, 'ref:' .. definition, -1) <= 0 then
      redis.call('HDEL', META, 'ref:' .. definition)
      if redis.call('HGET', META, 'def') ~= definition then forget_definition(of, definition) end
    end
    answer(reply, of.run_id)
    post(deliver, 'run', of.run_id, state, '')
  end

  -- The steps that only this one kept from beginning, now that it lets them: a list for `pump`.
  -- `successors` names each once.
  local function released(item, successors)
    local ready = {}
    for from = 1, #successors, 500 do
      local names = { unpack(successors, from, math.min(from + 499, #successors)) }
      local steps, waiting = redis.call('HMGET', item.steps, unpack(names)), {}
      for i, name in ipairs(names) do
        local step = unpack_step(steps[i])
        step.left = step.left - 1
        if step.left == 0 and step.finished == '0' then
          ready[#ready + 1] = { name, step }
        else
          waiting[#waiting + 1], waiting[#waiting + 2] = name, pack_step(step)
        end
      end
      if #waiting > 0 then redis.call('HSET', item.steps, unpack(waiting)) end
    end
    return ready
  end

  -- Nothing else of the run is left to do: its synthesis begins, if it has one that has not begun, and anything to sum
  -- up. Returns how many of the run's steps are now on the stream.
  local function begin_synthesis(item)
    local run = redis.call('HMGET', item.run, 'synthesis', 'state', 'completed')
    local name, state, completed = run[1], run[2], run[3]
    if not name or state ~= 'running' or completed == '0' then return 0 end
    local step = read_step(item.steps, name)
    if step.left == 0 then return 0 end
    step.left = 0
    return pump(item, { { name, step } })
  end

  -- A step has ended. Enqueues what it made ready, and ends the run when nothing of it is on a stream.
  local function advance(item, ended)
    local step, outcome = item.step, ended.outcome
    local successors = step.successors == NONE and {} or split(step.successors, LS)
    -- What was delegated counts as done in any case: who delegated it judges how it ended.
    local is_good = outcome == 'completed' or outcome == 'skipped' or is_marked(step, DELEGATED)
    local counts = is_marked(step, SYNTHESIS) and 0 or 1
    tell_end(item, ended, successors)
    local ready = {}
    if (is_good or is_marked(step, LENIENT)) and not is_marked(step, RELEASED) then
      ready = released(item, successors)
      if not is_good then      -- it may be replayed, and must not let them begin once more
        step.marks = step.marks .. RELEASED
        write_step(item.steps, item.name, step)
      end
    end
    local added = { completed = is_good and counts or 0, failed = is_good and 0 or counts,
      ends = is_good and #successors == 0 and counts or 0 }
    if pump(item, ready, added) == 0 and begin_synthesis(item) == 0 then end_run(item, tonumber(ended.ttl)) end
  end

  runs_made = { advance = advance, end_run = end_run, ended = ended_runs, pump = pump, changed = changed,
    is_marked = is_marked, bound_name = bound_name, bound_members = bound_members, name_of_bound = name_of_bound }
  return runs_made
end
