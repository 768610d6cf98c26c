-- How much waits and runs in each class, and which workers live. Only reads.
-- uses limits

-- The values of an XINFO answer by their names.
local function by_name(flat)
  local found = {}
  for i = 1, #flat, 2 do found[flat[i]] = flat[i + 1] end
  return found
end

-- How many entries of a stream were handed back, and the id of the first. They are pending at a consumer of their own.
local function returned(stream)
  local head = redis.call('XPENDING', stream, GROUP, '-', '+', 1, RETURNED)[1]
  for _, consumer in ipairs(head and redis.call('XPENDING', stream, GROUP)[4] or {}) do
    if consumer[1] == RETURNED then return tonumber(consumer[2]), head[1] end
  end
  return 0, nil
end

-- How many of `n` tasks may start now that wait for this agent, or for this role. Takes these places.
local function allot(one, n)
  local starts = 0
  for _, agent in ipairs(one.members and limiting().able(one) or { one }) do
    agent.left = agent.left or limiting().room(agent)
    local some = math.min(n - starts, agent.left)
    agent.left, starts = agent.left - some, starts + some
  end
  return starts
end

-- How many entries of a stream wait for the limits of their agents, and how many of those that did may start now.
local function count_limited(stream)
  local all, free = 0, 0
  for _, consumer in ipairs(redis.call('XPENDING', stream, GROUP)[4] or {}) do
    local name, n = consumer[1], tonumber(consumer[2])
    if is_limited(name) then
      local one = limiting().of(string.sub(name, #LIMITED + 1))
      all, free = all + n, free + (one and allot(one, n) or n)
    end
  end
  return all - free, free
end

-- Class -> waiting, running, back (of those that wait, how many were handed back), limited (how many wait for the
-- limits of their agents), free (of those that wait, how many did), head (the id of the first that waits; ''), last
-- (the id of the last new one that was claimed). A stream that isn't there is an empty one.
local function count_classes()
  local counts, length_of, handed_back = {}, lengths(), redis.call('ZSCORE', LEASES, RETURNED)
  for _, class in ipairs(CLASSES) do
    local stream, waiting, running, back, head, last = STREAM[class], 0, 0, 0, nil, '0-0'
    local limited, free = 0, 0
    local length = length_of[class]
    if length > 0 then
      local pending = 0
      for _, flat in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
        local group = by_name(flat)
        if group['name'] == GROUP then last, pending = group['last-delivered-id'], group['pending'] end
      end
      if handed_back and pending > 0 then back, head = returned(stream) end
      running = pending - back
      if limits and pending > 0 then
        limited, free = count_limited(stream)
        running = running - limited - free
      end
      waiting = math.max(length - running - limited, 0)
      if waiting > 0 and not head then
        local new = redis.call('XRANGE', stream, '(' .. last, '+', 'COUNT', 1)
        head = new[1] and new[1][1]
      end
    end
    counts[class] = { waiting = waiting, running = running, back = back, limited = limited, free = free,
      head = head or '', last = last }
  end
  return counts
end

-- For each worker that lives what it says of itself, or ''; is it to drain?
local function live_workers()
  local workers = {}
  for _, inc in ipairs(redis.call('ZRANGEBYSCORE', LEASES, '(' .. now, '+inf')) do
    workers[#workers + 1] = redis.call('HGET', WORKERS, inc) or ''
    workers[#workers + 1] = redis.call('HEXISTS', META, 'drain:' .. (string.match(inc, '^(.*)%.[^.]*$') or inc))
  end
  return workers
end
