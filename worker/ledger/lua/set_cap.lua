-- set_cap(scope, cap) -> the account's fields | {} where there is none
-- a:<scope> hash; j stream
-- A cap below what is posted and held is taken as it is: nothing fits until enough was given back.
local scope = ARGV[1]
if redis.call('HEXISTS', account_key(scope), 'cap') == 0 then return {} end
redis.call('HSET', account_key(scope), 'cap', int(amount(ARGV[2])))
log('cap', 'scope', scope, 'cap', ARGV[2])
return fields_of(scope)
