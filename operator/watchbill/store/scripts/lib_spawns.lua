-- Which agents are there: the feeds say of an agent that it was spawned with the first worker, and that it was stopped
-- with the last, however many workers there are in between. meta's `spawned:` fields: those that are there.
-- uses events

-- Whether no other worker than this has a lease that ends after `since`, in ms.
local function is_alone(inc, since)
  for _, other in ipairs(redis.call('ZRANGEBYSCORE', LEASES, '(' .. since, '+inf', 'LIMIT', 0, 2)) do
    if other ~= inc then return false end
  end
  return true
end

-- The agents that a call names behind ARGV[at], and the streams of their events, which are behind the fixed keys.
local function named_agents(at)
  local agents, streams = {}, {}
  for i = 1, #KEYS - FIXED do
    local agent, stream = ARGV[at + i], KEYS[FIXED + i]
    agents[i], streams[i] = agent, stream
  end
  return agents, streams
end

-- `since`: only of those that were there before; nil: of all.
local function tell_stopped(agents, streams, message, since)
  for i, agent in ipairs(agents) do
    local at = since and redis.call('HGET', META, 'spawned:' .. agent)
    if (not at or tonumber(at) < since) and redis.call('HDEL', META, 'spawned:' .. agent) == 1 then
      event('agent_stopped', '"agent_id":' .. quote(agent) .. ',"message":' .. quote(message), streams[i])
    end
  end
end
